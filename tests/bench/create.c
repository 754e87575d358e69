/* The least that a hook can do: read the domain XML, do the one write that makes a
 * device: a UUID to create, or a type's number to current_vgpu_type.
 * usage: create TEXT FILE */
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	char buffer[65536];
	int fd;

	if (argc != 3)
		return 2;
	while (read(0, buffer, sizeof(buffer)) > 0)
		;
	fd = open(argv[2], O_WRONLY);
	if (fd < 0)
		return 1;
	if (write(fd, argv[1], strlen(argv[1])) != (ssize_t)strlen(argv[1]))
		return 1;
	return close(fd) ? 1 : 0;
}
