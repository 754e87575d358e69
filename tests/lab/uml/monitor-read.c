// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * QEMU asks for one byte of its monitor at a time (monitor_can_read), with some system calls for each: that
 * is two thirds of a VM's start on a User-mode Linux. This reads as much as there is, into the same buffer:
 * tcp_chr_read has CHR_READ_BUF_LEN bytes there, passes on as many as have come, and the monitor's parser
 * takes any number. libvirt sends a command when it has the answer to the one before.
 */
#define _GNU_SOURCE
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define CHR_READ_BUF_LEN 4096
#define MONITOR "/monitor.sock"

static int is_monitor(int socket)
{
	struct sockaddr_un name = { 0 };
	socklen_t size = sizeof(name) - 1;
	size_t length;

	if (getsockname(socket, (struct sockaddr *)&name, &size) || name.sun_family != AF_UNIX)
		return 0;
	length = strlen(name.sun_path);
	return length >= strlen(MONITOR) && !strcmp(name.sun_path + length - strlen(MONITOR), MONITOR);
}

ssize_t recvmsg(int socket, struct msghdr *message, int flags)
{
	struct iovec *part = message->msg_iov;
	int wants_one = message->msg_iovlen == 1 && part->iov_len == 1 && is_monitor(socket);
	ssize_t count;

	if (wants_one)
		part->iov_len = CHR_READ_BUF_LEN;
	count = syscall(SYS_recvmsg, socket, message, flags);
	if (wants_one)
		part->iov_len = 1;
	return count;
}
