/* The machine until the command can run: modules, ports, the image's root. */
#include "init.h"

int hosts_file = -1;

#define DISK_SECONDS 60 /* from one of the kernel's news to the next while the root is missing */

/* Loads FOLDER/00.ko and on. A driver may refuse, since its hardware is not there; other modules may not. */
void load_modules(const char *folder, int may_refuse)
{
    char path[32];
    for (int i = 0;; i++) {
        snprintf(path, sizeof path, "%s/%02d.ko", folder, i);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            return;
        if (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST && !may_refuse)
            die(path);
        close(fd);
        unlink(path); /* its memory is the guest's */
    }
}

struct sink open_consoles(void)
{
    const int flags = O_WRONLY | O_NOCTTY | O_CLOEXEC;
    return (struct sink){{open("/dev/tty0", flags), open("/dev/ttyS0", flags)}};
}

struct sink open_events(void)
{
    int fd = open("/dev/ttyS1", O_WRONLY | O_NOCTTY | O_CLOEXEC);
    struct termios settings;
    if (fd >= 0 && tcgetattr(fd, &settings) == 0) {
        cfmakeraw(&settings);
        settings.c_cflag |= CLOCAL;
        tcsetattr(fd, TCSANOW, &settings);
    }
    return (struct sink){{fd, -1}};
}

/* A device appears some time after its driver: each try waits for the kernel's next uevent. */
int uevents(void)
{
    struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_groups = 1};
    int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
        die("uevents");
    return fd;
}

void next_uevent(int news, const char *wanted)
{
    char ignored[4096];
    if (recv(news, ignored, sizeof ignored, 0) >= 0 || errno == EINTR || errno == ENOBUFS)
        return;
    if (errno == EAGAIN) /* the time-out */
        errno = ENODEV;
    die(wanted);
}

static int is_partition(const char *device, const char *name)
{
    char path[320], text[1024], wanted[128];
    snprintf(path, sizeof path, "/sys/class/block/%s/uevent", device);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    if (n < 0)
        return 0;
    text[n] = 0;
    snprintf(wanted, sizeof wanted, "\nPARTNAME=%s\n", name);
    return strstr(text, wanted) != NULL;
}

/* The root's device, on whatever bus the machine has its disk. */
const char *find_partition(int news, const char *name)
{
    static char found[320];
    const struct timeval patience = {.tv_sec = DISK_SECONDS};
    setsockopt(news, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    for (;;) {
        DIR *devices = opendir("/sys/class/block");
        for (struct dirent *entry; devices && !*found && (entry = readdir(devices));)
            if (is_partition(entry->d_name, name))
                snprintf(found, sizeof found, "/dev/%s", entry->d_name);
        if (devices)
            closedir(devices);
        if (*found)
            return found;
        next_uevent(news, "finding the root disk");
    }
}

static int try_port(const char *name, int flags)
{
    int fd = -1;
    DIR *ports = opendir("/sys/class/virtio-ports");
    for (struct dirent *entry; ports && fd < 0 && (entry = readdir(ports));) {
        char path[320], found[64] = "";
        snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
        int file = open(path, O_RDONLY | O_CLOEXEC);
        if (file < 0)
            continue;
        ssize_t n = read(file, found, sizeof found - 1);
        close(file);
        if (n > 0 && !strncmp(found, name, strlen(name)) && found[strlen(name)] == '\n') {
            snprintf(path, sizeof path, "/dev/%s", entry->d_name);
            fd = open(path, flags | O_CLOEXEC);
        }
    }
    if (ports)
        closedir(ports);
    return fd;
}

int open_port(int news, const char *name, int flags)
{
    for (;;) {
        int fd = try_port(name, flags);
        if (fd >= 0)
            return fd;
        next_uevent(news, name);
    }
}

void must_mount(const char *type, const char *target, unsigned long flags, const char *options)
{
    mkdir(target, 0755);
    if (mount(type, target, type, flags, options) < 0)
        die(target);
}

static void bind_file(const char *source, const char *target)
{
    int fd = open(target, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd >= 0)
        close(fd);
    if (fd >= 0 || errno == ELOOP) /* a link of the image's own is left alone */
        mount(source, target, NULL, MS_BIND, NULL);
}

void enter_root(void)
{
    const unsigned long safe = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    char shm[64];
    snprintf(shm, sizeof shm, "mode=1777,size=%s", config.shm ? config.shm : "64m");
    open_shares();
    mkdir("/root", 0755);
    if (mount(config.disk, "/root", "ext4", MS_NOATIME, NULL) < 0)
        die("the root disk");
    mkdir("/root/etc", 0755);
    hosts_file = open("/etc/hosts", O_WRONLY | O_CLOEXEC);
    bind_file("/etc/hosts", "/root/etc/hosts");
    if (config.interfacec)
        bind_file("/etc/resolv.conf", "/root/etc/resolv.conf");
    bind_file("/etc/hostname", "/root/etc/hostname");
    mkdir("/root/dev", 0755);
    mkdir("/root/sys", 0755);
    if (mount("/dev", "/root/dev", NULL, MS_MOVE, NULL) < 0 || mount("/sys", "/root/sys", NULL, MS_MOVE, NULL) < 0)
        die("moving mounts");
    if (chdir("/root") < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
        die("entering the root");
    mkdir("/proc", 0755);
    must_mount("tmpfs", "/dev/shm", safe, shm);
    must_mount("mqueue", "/dev/mqueue", safe, NULL);
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2", safe, "nsdelegate");
    make_group();
    symlink("/proc/self/fd", "/dev/fd");
    symlink("/proc/self/fd/0", "/dev/stdin");
    symlink("/proc/self/fd/1", "/dev/stdout");
    symlink("/proc/self/fd/2", "/dev/stderr");
}
