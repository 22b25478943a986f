/* A client of a pair relay: sends each line of its input to its partner, prints what comes back.
 *
 *   cc -o pair_client pair_client.c -lcrypto
 *   UDP_RELAY_SECRET_KEY=... ./pair_client 203.0.113.1 6060 00000001000000020000000300000004
 *
 * It ends two seconds after its input has ended. The wire format: docs/pair-relay.md. */
#include <arpa/inet.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { HEADER = 56, GUID_AT = 8, MAC_AT = 24 };
static const unsigned char MAGIC[4] = {0x04, 0xb2, 0x80, 0x00};

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

/* Magic, length 0, flags 0, GUID; then the MAC over all of it with the MAC's own bytes zero. */
static int handshake(unsigned char *out, const char *guid, const char *key64) {
    unsigned char key[1024];
    size_t length = strlen(key64);
    int key_length = length < 1024 ? EVP_DecodeBlock(key, (const unsigned char *)key64, length) : -1;
    while (length > 0 && key64[--length] == '=') key_length--;
    memset(out, 0, HEADER);
    memcpy(out, MAGIC, 4);
    for (int i = 0; i < 16; i++)
        if (sscanf(guid + 2 * i, "%2hhx", out + GUID_AT + i) != 1) return 0;
    return key_length > 0 && HMAC(EVP_sha256(), key, key_length, out, HEADER, out + MAC_AT, NULL);
}

int main(int argc, char **argv) {
    unsigned char hello[HEADER], buffer[2048];
    const char *key = getenv("UDP_RELAY_SECRET_KEY");
    struct sockaddr_in relay = {.sin_family = AF_INET};
    if (argc != 4 || strlen(argv[3]) != 32 || !key || !handshake(hello, argv[3], key) ||
        inet_pton(AF_INET, argv[1], &relay.sin_addr) != 1) {
        fprintf(stderr, "usage: UDP_RELAY_SECRET_KEY=... pair_client IPV4 PORT GUID(32 hex)\n");
        return 2;
    }
    relay.sin_port = htons(atoi(argv[2]));
    int relayed = socket(AF_INET, SOCK_DGRAM, 0);
    if (relayed < 0 || connect(relayed, (struct sockaddr *)&relay, sizeof relay)) return 1;
    int connected = 0, input_open = 1;
    double next_hello = 0, end = 1e300;
    setvbuf(stdin, NULL, _IONBF, 0); /* or poll wouldn't know of lines read ahead */
    while (now() < end) {
        /* Ten a second until the partner is heard; then one a second keeps pair and NAT open. */
        if (now() >= next_hello) {
            send(relayed, hello, HEADER, 0);
            next_hello = now() + (connected ? 1 : 0.1);
        }
        struct pollfd ready[2] = {{relayed, POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
        poll(ready, connected && input_open ? 2 : 1, 50);
        if (ready[0].revents) {
            ssize_t length = recv(relayed, buffer, sizeof buffer, 0);
            if (length >= HEADER && !memcmp(buffer, MAGIC, 4)) { /* the partner's handshake */
                if (!connected) next_hello = 0;
                connected = 1;
            } else if (length > 0) {
                fwrite(buffer, 1, length, stdout);
                fflush(stdout);
            }
        }
        if (ready[1].revents) {
            if (fgets((char *)buffer, 1024, stdin)) send(relayed, buffer, strlen((char *)buffer), 0);
            else input_open = 0, end = now() + 2;
        }
    }
    return 0;
}
