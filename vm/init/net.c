/* Networks: interfaces with the addresses that the host has given, and the names it tells of. */
#include "init.h"
#include <arpa/inet.h>
#include <net/route.h>
#include <netinet/in.h>

#define HOSTS_MAX (1 << 20)

static char *found; /* what of a hosts file was told so far */
static size_t length;

/* The name of the interface with that MAC; it appears some time after its driver. */
static void find_interface(int news, const char *mac, char name[IFNAMSIZ])
{
    for (;;) {
        DIR *interfaces = opendir("/sys/class/net");
        *name = 0;
        for (struct dirent *entry; interfaces && !*name && (entry = readdir(interfaces));) {
            char path[320], address[32] = "";
            snprintf(path, sizeof path, "/sys/class/net/%s/address", entry->d_name);
            int fd = open(path, O_RDONLY | O_CLOEXEC);
            if (fd < 0)
                continue;
            ssize_t n = read(fd, address, sizeof address - 1);
            close(fd);
            if (n > 0 && !strncmp(address, mac, strlen(mac)))
                snprintf(name, IFNAMSIZ, "%.15s", entry->d_name);
        }
        if (interfaces)
            closedir(interfaces);
        if (*name)
            return;
        next_uevent(news, "a network interface");
    }
}

static void set_address(struct sockaddr *where, in_addr_t address)
{
    struct sockaddr_in *internet = (struct sockaddr_in *)where;
    *internet = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = address};
}

static void must(int result, const char *what)
{
    if (result < 0)
        die(what);
}

/* "MAC ADDRESS PREFIX" */
static void bring_up(int news, int fd, const char *line)
{
    char mac[32], address[32];
    unsigned prefix;
    struct ifreq request = {0};
    if (sscanf(line, "%31s %31s %u", mac, address, &prefix) != 3 || prefix > 32) {
        errno = EINVAL;
        die("an interface's description");
    }
    find_interface(news, mac, request.ifr_name);
    set_address(&request.ifr_addr, inet_addr(address));
    must(ioctl(fd, SIOCSIFADDR, &request), "an interface's address");
    set_address(&request.ifr_netmask, htonl(prefix ? ~0u << (32 - prefix) : 0));
    must(ioctl(fd, SIOCSIFNETMASK, &request), "an interface's netmask");
    must(ioctl(fd, SIOCGIFFLAGS, &request), "an interface");
    request.ifr_flags |= IFF_UP;
    must(ioctl(fd, SIOCSIFFLAGS, &request), "an interface");
}

void network_up(int news)
{
    struct ifreq loopback = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    must(fd, "the network");
    must(ioctl(fd, SIOCSIFFLAGS, &loopback), "the loopback interface");
    for (size_t i = 0; i < config.interfacec; i++)
        bring_up(news, fd, config.interfaces[i]);
    if (config.gateway) {
        struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
        set_address(&route.rt_dst, INADDR_ANY);
        set_address(&route.rt_genmask, INADDR_ANY);
        set_address(&route.rt_gateway, inet_addr(config.gateway));
        must(ioctl(fd, SIOCADDRT, &route), "the default route");
    }
    close(fd);
}

/* ---- names: "hosts", then "host ADDRESS NAME" for each, then "hosts-end" ------------------ */

static void add(const char *text)
{
    size_t more = strlen(text);
    char *bigger = length + more < HOSTS_MAX ? realloc(found, length + more) : NULL;
    if (!bigger)
        return;
    found = bigger;
    memcpy(found + length, text, more);
    length += more;
}

/* The file that is mounted at /etc/hosts; the image's own, which may be anything, is never written to. */
static void replace_hosts(void)
{
    if (hosts_file < 0 || !length)
        return;
    if (pwrite(hosts_file, found, length, 0) == (ssize_t)length)
        ftruncate(hosts_file, length);
}

/* Whether it was for us. */
int obey_names(char *line)
{
    if (!strcmp(line, "hosts")) {
        length = 0;
        add("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    } else if (!strncmp(line, "host ", 5)) {
        char *name = strchr(line + 5, ' ');
        if (name)
            *name = '\t';
        add(line + 5);
        add("\n");
    } else if (!strcmp(line, "hosts-end"))
        replace_hosts();
    else
        return 0;
    return 1;
}
