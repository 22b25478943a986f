/* Preloaded into a process whose disk is to lose all that was not synced.
 *
 * Each fsync or fdatasync of a file in $WATCHED copies it, as it is then, into $DURABLE; one of the
 * folder itself notes which names it holds. After a kill, $DURABLE is what a disk holds whose cache
 * was lost: for each noted name the contents of its last sync, and nothing that was written since. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void fail(const char *what) { perror(what); abort(); }

static void write_whole(const char *name, const char *data, size_t len) {
    const char *durable = getenv("DURABLE");
    char partial[PATH_MAX], whole[PATH_MAX];
    snprintf(partial, sizeof partial, "%s/.partial", durable);
    snprintf(whole, sizeof whole, "%s/%s", durable, name);
    int out = open(partial, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (out < 0) fail("open durable");
    while (len > 0) {
        ssize_t done = write(out, data, len);
        if (done <= 0) fail("write durable");
        data += done;
        len -= (size_t)done;
    }
    close(out);
    if (rename(partial, whole) != 0) fail("rename durable");
}

static void keep_file(const char *path, const char *name) {
    int in = open(path, O_RDONLY);
    if (in < 0) return; /* unlinked meanwhile */
    struct stat st;
    if (fstat(in, &st) != 0) fail("fstat");
    size_t len = (size_t)st.st_size;
    char *data = malloc(len + 1);
    for (size_t at = 0; at < len;) {
        ssize_t done = pread(in, data + at, len - at, (off_t)at);
        if (done <= 0) fail("pread");
        at += (size_t)done;
    }
    close(in);
    char durable_name[NAME_MAX + 8];
    snprintf(durable_name, sizeof durable_name, "file-%s", name);
    write_whole(durable_name, data, len);
    free(data);
}

/* A file that is gone takes its contents along: one made anew by that name begins empty. */
static void forget_gone(const char *watched) {
    const char *durable = getenv("DURABLE");
    DIR *folder = opendir(durable);
    if (!folder) fail("opendir durable");
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (strncmp(entry->d_name, "file-", 5) != 0) continue;
        char path[PATH_MAX];
        snprintf(path, sizeof path, "%s/%s", watched, entry->d_name + 5);
        if (access(path, F_OK) == 0) continue;
        snprintf(path, sizeof path, "%s/%s", durable, entry->d_name);
        if (unlink(path) != 0) fail("unlink durable");
    }
    closedir(folder);
}

static void keep_names(const char *path) {
    char names[65536] = "";
    DIR *folder = opendir(path);
    if (!folder) fail("opendir");
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (entry->d_name[0] == '.') continue;
        strncat(names, entry->d_name, sizeof names - strlen(names) - 2);
        strcat(names, "\n");
    }
    closedir(folder);
    write_whole("names", names, strlen(names));
    forget_gone(path);
}

static void synced(int fd) {
    const char *watched = getenv("WATCHED");
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, sizeof path - 1);
    if (!watched || len < 0) return;
    path[len] = 0;
    size_t prefix = strlen(watched);
    if (strcmp(path, watched) == 0) {
        keep_names(path);
    } else if (strncmp(path, watched, prefix) == 0 && path[prefix] == '/') {
        keep_file(path, path + prefix + 1);
    }
}

int fsync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    int result = real(fd);
    if (result == 0) synced(fd);
    return result;
}

int fdatasync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    int result = real(fd);
    if (result == 0) synced(fd);
    return result;
}
