/* The least that gives a PCI function another driver: read the domain XML, reserve the function
 * for that driver, unbind it, have the kernel look for a driver.
 * usage: bind FUNCTION FROM OVERRIDE */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0)
		return 1;
	if (write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		return 1;
	return close(fd) ? 1 : 0;
}

int main(int argc, char **argv)
{
	char buffer[65536], path[256];

	if (argc != 4)
		return 2;
	while (read(0, buffer, sizeof(buffer)) > 0)
		;
	snprintf(path, sizeof(path), "/sys/bus/pci/drivers/%s/unbind", argv[2]);
	if (put(path, argv[1]))
		return 1;
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver_override", argv[1]);
	if (put(path, argv[3]))
		return 1;
	return put("/sys/bus/pci/drivers_probe", argv[1]);
}
