/* Users and groups by the instance's own passwd and group files, as they are now; hybrid/accounts.py has the rules. */
#include "init.h"

#define FILE_LIMIT (4 << 20)
#define ID_LIMIT 2147483647UL

/* The files are the image's: one that is no regular file, or endless, is not read (to its end). */
static FILE *open_table(const char *path)
{
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return NULL;
    if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_size <= FILE_LIMIT)
        return fdopen(fd, "re");
    close(fd);
    return NULL;
}

static int split(char *line, char **fields, int wanted)
{
    int count = 0;
    line[strcspn(line, "\r\n")] = 0;
    while (count < wanted && line)
        fields[count++] = strsep(&line, ":");
    return count;
}

static int parse_id(const char *text, unsigned long *value)
{
    char *end;
    if (*text < '0' || *text > '9')
        return 0;
    errno = 0;
    *value = strtoul(text, &end, 10);
    return !errno && !*end && *value <= ID_LIMIT;
}

/* The entry of a name, else of its number; fills in uid, gid, name and home. */
static int find_user(const char *wanted, struct account *account)
{
    FILE *table = open_table("/etc/passwd");
    char *line = NULL, *fields[6];
    size_t room = 0;
    int found = 0;
    while (table && getline(&line, &room, table) > 0) {
        unsigned long uid, gid, number;
        if (split(line, fields, 6) < 6 || !parse_id(fields[2], &uid) || !parse_id(fields[3], &gid))
            continue;
        int named = !strcmp(fields[0], wanted);
        if (named || (!found && parse_id(wanted, &number) && number == uid)) {
            account->uid = uid;
            account->gid = gid;
            snprintf(account->name, sizeof account->name, "%s", fields[0]);
            snprintf(account->home, sizeof account->home, "%s", *fields[5] == '/' ? fields[5] : "/");
            found = 1;
        }
        if (named)
            break;
    }
    free(line);
    if (table)
        fclose(table);
    return found;
}

static int is_member(char *members, const char *name)
{
    for (char *member; (member = strsep(&members, ","));)
        if (!strcmp(member, name))
            return 1;
    return 0;
}

/* With `wanted`, the number of that group; without, the supplementary groups of the account. */
static int read_groups(struct account *account, const char *wanted)
{
    FILE *table = open_table("/etc/group");
    char *line = NULL, *fields[4];
    size_t room = 0;
    int found = 0;
    while (table && !found && getline(&line, &room, table) > 0) {
        unsigned long gid;
        int count = split(line, fields, 4);
        if (count < 3 || !parse_id(fields[2], &gid))
            continue;
        if (wanted && !strcmp(fields[0], wanted)) {
            account->gid = gid;
            found = 1;
        } else if (!wanted && count == 4 && account->groupc < ACCOUNT_GROUPS && is_member(fields[3], account->name))
            account->groups[account->groupc++] = gid;
    }
    free(line);
    if (table)
        fclose(table);
    return found;
}

const char *look_up(char *user, struct account *account)
{
    char *group = strchr(user, ':');
    unsigned long number;
    if (group)
        *group++ = 0;
    memset(account, 0, sizeof *account);
    strcpy(account->home, "/");
    const char *name = *user ? user : "0";
    int found = find_user(name, account);
    if (!found) {
        if (!parse_id(name, &number))
            return "no such user in /etc/passwd";
        account->uid = number;
    }
    if (group && *group) {
        if (!read_groups(account, group)) {
            if (!parse_id(group, &number))
                return "no such group in /etc/group";
            account->gid = number;
        }
    } else if (found)
        read_groups(account, NULL);
    return NULL;
}
