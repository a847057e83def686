/* The floor that a load generator's cost is held against: N streams in a closed loop, one recv a wake-up, events counted, nothing kept.
 *
 *   floor_client PORT STREAMS REQUESTS REQUEST_FILE
 *
 * REQUEST_FILE holds one whole HTTP request. Prints {"requests": …, "events": …, "cpu_s": …}.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static char request[1 << 20];
static size_t request_len;
static struct sockaddr_in server = {.sin_family = AF_INET};
static long long last_ns; /* a time is taken for each read, as any client must */

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int dial(int epoll) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    if (fd < 0 || connect(fd, (struct sockaddr *)&server, sizeof server)) fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl");
    return fd;
}

static void ask(int fd) {
    for (size_t at = 0; at < request_len;) {
        ssize_t n = send(fd, request + at, request_len - at, MSG_NOSIGNAL);
        if (n < 0) fail("send");
        at += (size_t)n;
    }
}

int main(int argc, char **argv) {
    if (argc != 5) return 2;
    server.sin_port = htons((unsigned short)atoi(argv[1]));
    inet_pton(AF_INET, "127.0.0.1", &server.sin_addr);
    long streams = atol(argv[2]), requests = atol(argv[3]), started = 0, finished = 0, events = 0;
    FILE *file = fopen(argv[4], "rb");
    if (!file || !(request_len = fread(request, 1, sizeof request, file))) fail(argv[4]);
    int epoll = epoll_create1(0);
    for (; started < streams && started < requests; started++) ask(dial(epoll));
    static char buffer[1 << 16];
    struct epoll_event ready[512];
    while (finished < requests) {
        int count = epoll_wait(epoll, ready, 512, 10000);
        if (count <= 0) fail("epoll_wait");
        for (int i = 0; i < count; i++) {
            int fd = ready[i].data.fd;
            ssize_t n = recv(fd, buffer, sizeof buffer - 1, 0);
            struct timespec now;
            clock_gettime(CLOCK_MONOTONIC, &now);
            last_ns = now.tv_sec * 1000000000LL + now.tv_nsec;
            if (n <= 0) fail("recv");
            for (char *at = buffer; (at = memmem(at, (size_t)(buffer + n - at), "\n\n", 2)); at += 2) events++;
            if (n >= 5 && !memcmp(buffer + n - 5, "0\r\n\r\n", 5)) {
                finished++;
                if (started < requests) {
                    started++;
                    ask(fd);
                } else {
                    close(fd);
                }
            }
        }
    }
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double cpu = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) + (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    printf("{\"requests\": %ld, \"events\": %ld, \"cpu_s\": %.6f, \"last_ns\": %lld}\n", finished, events, cpu, last_ns);
    return 0;
}
