// Node's `ws`, with the native helper that its manual recommends: `/echo` and `/room`. Usage: node server.js PORT [CERTIFICATE KEY]
'use strict';
const { readFileSync } = require('node:fs');
const http = require('node:http');
const https = require('node:https');
const { WebSocketServer } = require('ws');

const options = { noServer: true, perMessageDeflate: true };
const echo = new WebSocketServer(options);
const room = new WebSocketServer(options);

echo.on('connection', (socket) => {
  socket.on('message', (message, binary) => socket.send(message, { binary }));
  socket.on('error', () => {}); // a client that breaks off is its own affair
});

room.on('connection', (socket) => {
  socket.on('message', (message, binary) => {
    for (const member of room.clients) {
      if (member.readyState === member.OPEN) member.send(message, { binary });
    }
  });
  socket.on('error', () => {});
});

const [port, certificate, key] = process.argv.slice(2);
const server = certificate
  ? https.createServer({ cert: readFileSync(certificate), key: readFileSync(key) })
  : http.createServer();
server.on('request', (request, response) => {
  response.writeHead(426).end();
});
server.on('upgrade', (request, socket, head) => {
  const service = request.url === '/room' ? room : echo;
  service.handleUpgrade(request, socket, head, (client) => service.emit('connection', client, request));
});
server.listen({ port: Number(port), host: '127.0.0.1', backlog: 4096 });
