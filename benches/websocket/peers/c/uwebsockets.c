/* uWebSockets, through the C interface of the library that PyPI's socketify ships: /echo and /room.
 * It has one thread, and libuv as its loop. Usage: uwebsockets PORT [CERTIFICATE KEY]
 *
 * The package lacks a header that its own header includes, so the used declarations are here, as in socketify 0.0.31. */
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

struct socket_context_options {
    const char *key_file, *cert_file, *passphrase, *dh_params_file, *ca_file, *ciphers;
    int prefer_low_memory;
};

typedef void (*on_socket)(void *socket, void *data);
typedef void (*on_message)(void *socket, const char *message, size_t length, int opcode, void *data);
typedef void (*on_ping)(void *socket, const char *message, size_t length, void *data);
typedef void (*on_close)(void *socket, int code, const char *message, size_t length, void *data);

struct behavior {
    int compression;
    unsigned payload_max;
    unsigned short idle_timeout;
    unsigned backpressure_max;
    bool close_on_backpressure, reset_idle_timeout_on_send, send_pings;
    unsigned short lifetime_max;
    void *upgrade;
    on_socket open;
    on_message message;
    on_socket drain;
    on_ping ping, pong;
    on_close close;
    void *subscription;
};

struct listen_config {
    int port;
    const char *host;
    int options;
};

void *socketify_create_loop(void);
void *socketify_get_native_loop(void *loop);
int socketify_loop_run(void *loop, int mode);
void *uws_get_loop_with_native(void *native);
void *uws_create_app(int ssl, struct socket_context_options options);
void uws_ws(int ssl, void *app, const char *pattern, struct behavior behavior, void *data);
int uws_ws_send_with_options(int ssl, void *socket, const char *message, size_t length, int opcode, bool compress, bool fin);
bool uws_ws_subscribe(int ssl, void *socket, const char *topic, size_t length);
bool uws_publish(int ssl, void *app, const char *topic, size_t topic_length, const char *message, size_t length, int opcode,
                 bool compress);
void uws_app_listen_with_config(int ssl, void *app, struct listen_config config,
                                void (*done)(void *listener, struct listen_config config, void *data), void *data);

enum { SHARED_COMPRESSOR = 1, SHARED_DECOMPRESSOR = 1 << 8 };

static const char room[] = "room";
static void *app;
static int ssl;

static void echo(void *socket, const char *message, size_t length, int opcode, void *data) {
    (void)data;
    /* "Compress" holds for the clients that offered it. */
    uws_ws_send_with_options(ssl, socket, message, length, opcode, true, true);
}

static void join(void *socket, void *data) {
    (void)data;
    uws_ws_subscribe(ssl, socket, room, sizeof room - 1);
}

static void publish(void *socket, const char *message, size_t length, int opcode, void *data) {
    (void)socket, (void)data;
    uws_publish(ssl, app, room, sizeof room - 1, message, length, opcode, true);
}

static void ignore_socket(void *socket, void *data) { (void)socket, (void)data; }

static void ignore_ping(void *socket, const char *message, size_t length, void *data) {
    (void)socket, (void)message, (void)length, (void)data;
}

static void ignore_close(void *socket, int code, const char *message, size_t length, void *data) {
    (void)socket, (void)code, (void)message, (void)length, (void)data;
}

static void listening(void *listener, struct listen_config config, void *data) {
    (void)data;
    if (!listener) {
        fprintf(stderr, "cannot listen on port %d\n", config.port);
        exit(1);
    }
}

int main(int argc, char **argv) {
    if (argc != 2 && argc != 4) {
        fprintf(stderr, "expected a port, and perhaps a certificate and its key\n");
        return 2;
    }
    struct socket_context_options options = {0};
    if (argc == 4) {
        ssl = 1;
        options.cert_file = argv[2];
        options.key_file = argv[3];
    }
    void *loop = socketify_create_loop();
    uws_get_loop_with_native(socketify_get_native_loop(loop));
    app = uws_create_app(ssl, options);
    struct behavior behavior = {
        .compression = SHARED_COMPRESSOR | SHARED_DECOMPRESSOR,
        .payload_max = 16 << 20,
        .idle_timeout = 120,
        .backpressure_max = 64 << 20,
        .send_pings = true,
        .open = ignore_socket,
        .message = echo,
        .drain = ignore_socket,
        .ping = ignore_ping,
        .pong = ignore_ping,
        .close = ignore_close,
    };
    uws_ws(ssl, app, "/echo", behavior, NULL);
    behavior.open = join;
    behavior.message = publish;
    uws_ws(ssl, app, "/room", behavior, NULL);
    uws_app_listen_with_config(ssl, app, (struct listen_config){atoi(argv[1]), "127.0.0.1", 0}, listening, NULL);
    socketify_loop_run(loop, 0);
}
