/* The hot path of benchmarks/truth_server.py in C: completions on an exact schedule, and a log of when it really was.

     cc -O2 -o truth_server truth_server.c [-DTLS -lssl -lcrypto]
     ./truth_server --port 8901 --ttft 0.05 --gap 0.005 --log truth.jsonl [--core 1] [--seats N] [--gaps] [--tls CERT KEY]

   One thread, one epoll, on a core of its own. received_s is
   the kernel's arrival time of the request's last segment, first_s and last_s are taken right before send(): all
   CLOCK_MONOTONIC seconds. The log is complete when the server has ended (SIGTERM). */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#ifdef TLS
#include <openssl/ssl.h>
#endif

#define INBOX (1 << 20)
#define FDS 65536
#define SPIN_S 0.00005 /* it sleeps until so shortly before a token is due */

typedef struct {
    int fd, open, streamed, sent, tokens, prompt_tokens, place; /* place in the heap, -1 = no token is due */
    size_t filled, unsent, unsent_size;
    double received_s, arrived_s, first_due_s, next_s, first_s, last_s, late_s;
    double *times_s;
    char id[80], *inbox, *outbox;
#ifdef TLS
    SSL *ssl;
    int greeted;
#endif
} Peer;

static Peer *peers[FDS], *heap[FDS], *queue[FDS];
static int heap_size, queue_head, queue_tail, seated, seats, gaps, epoll;
static double ttft = 0.05, gap = 0.005;
static FILE *logfile;
static volatile sig_atomic_t running = 1;
#ifdef TLS
static SSL_CTX *context;
#endif

static char event_chunk[1024], head_bytes[256];
static int event_size;

static void stop(int number) { (void)number; running = 0; }

static double clock_s(clockid_t which) {
    struct timespec t;
    clock_gettime(which, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}
static double now_s(void) { return clock_s(CLOCK_MONOTONIC); }

/* --- the heap of due tokens ------------------------------------------------------------------------------------- */

static void put(Peer *peer, int place) { heap[place] = peer, peer->place = place; }

static void sift(Peer *peer, int place) {
    while (place > 0 && heap[(place - 1) / 2]->next_s > peer->next_s) {
        put(heap[(place - 1) / 2], place);
        place = (place - 1) / 2;
    }
    for (int child; (child = 2 * place + 1) < heap_size; place = child) {
        if (child + 1 < heap_size && heap[child + 1]->next_s < heap[child]->next_s) child++;
        if (heap[child]->next_s >= peer->next_s) break;
        put(heap[child], place);
    }
    put(peer, place);
}

static void schedule(Peer *peer, double at_s) {
    peer->next_s = at_s;
    sift(peer, peer->place >= 0 ? peer->place : heap_size++);
}

static void unschedule(Peer *peer) {
    int place = peer->place;
    if (place < 0) return;
    peer->place = -1;
    Peer *last = heap[--heap_size];
    if (last != peer) sift(last, place);
}

/* --- bytes ------------------------------------------------------------------------------------------------------ */

static void seat(Peer *peer, double at_s) {
    seated++;
    peer->first_due_s = at_s + ttft;
    schedule(peer, peer->first_due_s);
}

static void unseat(double at_s) {
    seated--;
    while (queue_head != queue_tail) {
        Peer *next = queue[queue_head++ % FDS];
        if (next->open) { seat(next, at_s); return; }
    }
}

static void drop(Peer *peer) {
    if (!peer->open) return;
    peer->open = 0;
    if (peer->place >= 0) { unschedule(peer); unseat(now_s()); }
#ifdef TLS
    if (peer->ssl) SSL_free(peer->ssl);
    peer->ssl = NULL;
#endif
    close(peer->fd);
}

static void watch(Peer *peer, int writable) {
    struct epoll_event event = {EPOLLIN | (writable ? EPOLLOUT : 0), {.fd = peer->fd}};
    epoll_ctl(epoll, EPOLL_CTL_MOD, peer->fd, &event);
}

static ssize_t put_bytes(Peer *peer, const char *data, size_t size) {
#ifdef TLS
    if (peer->ssl) {
        int sent = SSL_write(peer->ssl, data, (int)size);
        if (sent > 0) return sent;
        errno = SSL_get_error(peer->ssl, sent) == SSL_ERROR_WANT_WRITE ? EAGAIN : EPIPE;
        return -1;
    }
#endif
    return send(peer->fd, data, size, MSG_NOSIGNAL);
}

static void transmit(Peer *peer, const char *data, size_t size) {
    ssize_t sent = peer->unsent ? 0 : put_bytes(peer, data, size);
    if (sent < 0 && errno != EAGAIN) { drop(peer); return; }
    if (sent < 0) sent = 0;
    if ((size_t)sent == size) return;
    size_t rest = size - sent;
    if (peer->unsent + rest > peer->unsent_size) {
        peer->unsent_size = 2 * (peer->unsent + rest);
        peer->outbox = realloc(peer->outbox, peer->unsent_size);
    }
    memcpy(peer->outbox + peer->unsent, data + sent, rest);
    peer->unsent += rest;
    watch(peer, 1);
}

static void flush_unsent(Peer *peer) {
    ssize_t sent = put_bytes(peer, peer->outbox, peer->unsent);
    if (sent < 0) { if (errno != EAGAIN) drop(peer); return; }
    memmove(peer->outbox, peer->outbox + sent, peer->unsent -= sent);
    if (!peer->unsent) watch(peer, 0);
}

/* Returns bytes read, 0 at the end, -1 when there is nothing; arrived_s becomes the kernel's arrival time. */
static ssize_t get_bytes(Peer *peer) {
    char *at = peer->inbox + peer->filled;
    size_t room = INBOX - peer->filled - 1;
#ifdef TLS
    if (peer->ssl) {
        peer->arrived_s = now_s();
        if (!peer->greeted && (peer->greeted = SSL_do_handshake(peer->ssl) == 1) == 0) {
            return SSL_get_error(peer->ssl, 0) == SSL_ERROR_SSL ? 0 : -1;
        }
        int got = SSL_read(peer->ssl, at, (int)room);
        if (got > 0) return got;
        return SSL_get_error(peer->ssl, got) == SSL_ERROR_WANT_READ ? -1 : 0;
    }
#endif
    char control[128];
    struct iovec part = {at, room};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t got = recvmsg(peer->fd, &message, 0);
    if (got < 0) return errno == EAGAIN ? -1 : 0;
    peer->arrived_s = now_s();
    struct cmsghdr *note = CMSG_FIRSTHDR(&message);
    if (note && note->cmsg_level == SOL_SOCKET && note->cmsg_type == SCM_TIMESTAMPNS) {
        struct timespec *stamp = (struct timespec *)CMSG_DATA(note);
        double ago_s = clock_s(CLOCK_REALTIME) - (stamp->tv_sec + stamp->tv_nsec * 1e-9);
        if (ago_s > 0 && ago_s < 1) peer->arrived_s -= ago_s;
    }
    return got;
}

/* --- requests and tokens ---------------------------------------------------------------------------------------- */

static void answer_get(Peer *peer) {
    const char *body = "{\"object\":\"list\",\"data\":[{\"id\":\"truth\",\"object\":\"model\"}]}";
    char reply[256];
    int models = !strncmp(peer->inbox, "GET /v1/models ", 15), health = !strncmp(peer->inbox, "GET /health ", 12);
    const char *content = models ? body : "{}";
    int size = snprintf(reply, sizeof reply, "HTTP/1.1 %s\r\ncontent-length: %zu\r\n\r\n%s",
                        models || health ? "200 OK" : "404 Not Found", strlen(content), content);
    transmit(peer, reply, size);
}

static void begin(Peer *peer, char *head_end, char *end) {
    char *body = head_end + 4, *found;
    peer->received_s = peer->arrived_s;
    peer->id[0] = 0;
    if ((found = strcasestr(peer->inbox, "x-request-id:")) && found < head_end)
        sscanf(found + 13, " %79[^\r]", peer->id);
    char kept = *end;
    *end = 0;
    found = strstr(body, "max_tokens\":");
    if (!found) found = strstr(body, "max_completion_tokens\":");
    peer->tokens = found ? atoi(strchr(found, ':') + 1) : 16;
    peer->streamed = strstr(body, "\"stream\":true") || strstr(body, "\"stream\": true");
    peer->prompt_tokens = 1;
    if ((found = strstr(body, "\"prompt\":[")))
        for (; *found && *found != ']'; found++) peer->prompt_tokens += *found == ',';
    *end = kept;
    peer->sent = 0, peer->late_s = 0;
    if (gaps) peer->times_s = realloc(peer->times_s, sizeof(double) * (peer->tokens + 1));
    if (peer->streamed) transmit(peer, head_bytes, strlen(head_bytes));
    if (seats && seated >= seats) queue[queue_tail++ % FDS] = peer;
    else seat(peer, peer->received_s);
}

static void readable(Peer *peer) {
    ssize_t got;
    while (peer->open && (got = get_bytes(peer)) >= 0) {
        if (got == 0) { drop(peer); return; }
        peer->filled += got;
        peer->inbox[peer->filled] = 0;
        char *head_end;
        while ((head_end = strstr(peer->inbox, "\r\n\r\n"))) {
            char *length = strcasestr(peer->inbox, "content-length:");
            size_t total = head_end + 4 - peer->inbox + (length && length < head_end ? atol(length + 15) : 0);
            if (total > INBOX / 2) { drop(peer); return; }
            if (peer->filled < total) break;
            if (!strncmp(peer->inbox, "GET", 3)) answer_get(peer);
            else begin(peer, head_end, peer->inbox + total);
            memmove(peer->inbox, peer->inbox + total, peer->filled - total + 1);
            peer->filled -= total;
        }
#ifdef TLS
        if (peer->ssl) continue; /* what OpenSSL has decrypted already wakes no epoll */
#endif
        return;
    }
}

static void record(Peer *peer) {
    if (!logfile) return;
    fprintf(logfile,
            "{\"id\":\"%s\",\"received_s\":%.7f,\"first_s\":%.7f,\"last_s\":%.7f,\"tokens\":%d,"
            "\"planned_first_s\":%.7f,\"late_max_s\":%.7f",
            peer->id, peer->received_s, peer->first_s, peer->last_s, peer->tokens, peer->first_due_s, peer->late_s);
    if (gaps) {
        fputs(",\"gaps_s\":[", logfile);
        for (int i = 1; i < peer->sent; i++)
            fprintf(logfile, "%s%.7f", i > 1 ? "," : "", peer->times_s[i] - peer->times_s[i - 1]);
        fputs("]", logfile);
    }
    fputs("}\n", logfile);
}

static int chunk(char *out, const char *data) { return sprintf(out, "%zx\r\n%s\r\n", strlen(data), data); }

static void token(Peer *peer) {
    static char out[4096], text[2048], usage[256];
    int last = !peer->streamed || peer->sent + 1 >= peer->tokens, size = event_size;
    const char *data = event_chunk;
    if (last) {
        sprintf(usage, "\"usage\":{\"prompt_tokens\":%d,\"total_tokens\":%d,\"completion_tokens\":%d}",
                peer->prompt_tokens, peer->prompt_tokens + peer->tokens, peer->tokens);
        data = out;
        if (peer->streamed) {
            memcpy(out, event_chunk, event_size);
            char *reason = memmem(out, event_size, "\"finish_reason\":null", 20);
            memcpy(reason, "\"finish_reason\":\"\"  ", 20);
            sprintf(text, "data: {\"id\":\"x\",\"object\":\"text_completion\",\"choices\":[],%s}\n\n", usage);
            size += chunk(out + size, text);
            size += chunk(out + size, "data: [DONE]\n\n");
            size += sprintf(out + size, "0\r\n\r\n");
        } else {
            sprintf(text, "{\"id\":\"x\",\"choices\":[{\"index\":0,\"text\":\"word\",\"finish_reason\":\"length\"}],%s}", usage);
            size = sprintf(out, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s",
                           strlen(text), text);
        }
    }
    double at_s = now_s(), late_s = at_s - peer->next_s;
    if (!peer->sent) peer->first_s = at_s;
    peer->last_s = at_s;
    if (late_s > peer->late_s) peer->late_s = late_s;
    if (gaps) peer->times_s[peer->sent] = at_s;
    peer->sent++;
    if (last) unschedule(peer);
    else schedule(peer, peer->first_due_s + peer->sent * gap); /* from the plan: lateness does not accumulate */
    transmit(peer, data, size);
    if (last) { record(peer); unseat(now_s()); }
}

/* --- the loop --------------------------------------------------------------------------------------------------- */

static void greet(int listener) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (fd >= FDS) { close(fd); continue; }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof one);
        if (!peers[fd]) {
            peers[fd] = calloc(1, sizeof(Peer));
            peers[fd]->inbox = malloc(INBOX);
        }
        Peer *peer = peers[fd];
        peer->fd = fd, peer->open = 1, peer->place = -1, peer->filled = peer->unsent = 0;
#ifdef TLS
        peer->greeted = 0;
        if (context) {
            peer->ssl = SSL_new(context);
            SSL_set_fd(peer->ssl, fd);
            SSL_set_accept_state(peer->ssl);
        }
#endif
        struct epoll_event event = {EPOLLIN, {.fd = fd}};
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    }
}

static int fail(const char *what) {
    perror(what);
    return 1;
}

int main(int count, char **words) {
    const char *certificate = NULL, *key = NULL;
    int port = 0, core = -1;
    for (int i = 1; i < count; i++) {
        const char *word = words[i];
        if (!strcmp(word, "--gaps")) { gaps = 1; continue; }
        if (i + 1 >= count) { fprintf(stderr, "%s: a value or a known option is missing\n", word); return 2; }
        const char *value = words[++i];
        if (!strcmp(word, "--port")) port = atoi(value);
        else if (!strcmp(word, "--ttft")) ttft = atof(value);
        else if (!strcmp(word, "--gap")) gap = atof(value);
        else if (!strcmp(word, "--seats")) seats = atoi(value);
        else if (!strcmp(word, "--core")) core = atoi(value);
        else if (!strcmp(word, "--log")) {
            if (!(logfile = fopen(value, "w"))) return fail(value);
            setvbuf(logfile, NULL, _IOFBF, 4 << 20);
        } else if (!strcmp(word, "--tls") && i + 1 < count) certificate = value, key = words[++i];
        else { fprintf(stderr, "%s: unknown option\n", word); return 2; }
    }
    if (core >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(core, &set);
        if (sched_setaffinity(0, sizeof set, &set)) return fail("--core");
    }
    if (certificate) {
#ifdef TLS
        context = SSL_CTX_new(TLS_server_method());
        SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
        if (SSL_CTX_use_certificate_chain_file(context, certificate) != 1) return fail(certificate);
        if (SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1) return fail(key);
#else
        (void)key;
        fprintf(stderr, "--tls: compile with -DTLS -lssl -lcrypto\n");
        return 2;
#endif
    }
    char text[512];
    sprintf(text, "data: {\"id\":\"cmpl-b9521c966a56da53\",\"created\":1795194751,\"model\":\"truth\",\"object\":\"text_completion\","
                  "\"choices\":[{\"index\":0,\"text\":\" word\",\"logprobs\":null,\"finish_reason\":null,\"stop_reason\":null,"
                  "\"prompt_token_ids\":null,\"token_ids\":null}]}\n\n");
    event_size = chunk(event_chunk, text);
    strcpy(head_bytes, "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n");

    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 2048)) return fail("--port");
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    epoll = epoll_create1(0);
    struct epoll_event wanted = {EPOLLIN, {.fd = listener}}, events[512];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &wanted);
    puts("ready");
    fflush(stdout);
    while (running) {
        double wait_s = heap_size ? heap[0]->next_s - now_s() - SPIN_S : 0.2;
        struct timespec wait = {0, wait_s < 0 ? 0 : wait_s > 0.2 ? 200000000 : (long)(wait_s * 1e9)};
        int ready = epoll_pwait2(epoll, events, 512, &wait, NULL);
        for (int i = 0; i < ready; i++) {
            if (events[i].data.fd == listener) { greet(listener); continue; }
            Peer *peer = peers[events[i].data.fd];
            if (peer->open && events[i].events & EPOLLOUT) flush_unsent(peer);
            if (peer->open && events[i].events & ~EPOLLOUT) readable(peer);
        }
        while (heap_size && heap[0]->next_s <= now_s()) token(heap[0]);
    }
    if (logfile) fclose(logfile);
    return 0;
}
