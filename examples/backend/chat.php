<?php

// A chat behind `consumer = "backend"`: an ordinary PHP page.

declare(strict_types=1);

// Returns whether the request comes from Oneport and is at most minutes old.
function is_signed(string $signature, string $body): bool
{
    $given = explode(',v1=', $signature);
    $at = substr(array_shift($given), strlen('t='));
    $wanted = hash_hmac('sha256', "$at.$body", (string) getenv('BACKEND_SECRET'));
    // One for each secret that Oneport has: several while a secret is being rotated.
    $ours = array_filter($given, fn (string $one): bool => hash_equals($wanted, $one));
    return $ours !== [] && abs(time() - (int) $at) < 300;
}

function connect(string $room): array
{
    if ($room === 'closed') {
        $headers = [['content-type', 'text/plain']];
        return [['type' => 'websocket.http.response', 'status' => 403, 'headers' => $headers, 'body' => "This room is closed.\n"]];
    }
    return [['type' => 'websocket.accept'], ['type' => 'group.add', 'group' => "chat_$room"]];
}

function receive(string $room, array &$state, ?string $text): array
{
    $said = json_decode($text ?? '', true);
    $message = is_array($said) ? ($said['message'] ?? null) : null;
    if (!is_string($message) || $message === '') {
        $error = ['type' => 'chat.error', 'code' => 'invalid_message', 'message' => 'expected {"message": "..."}'];
        return [['type' => 'websocket.send', 'text' => json_encode($error)]];
    }
    $state['said'] += 1;
    $event = ['type' => 'chat.message', 'message' => $message, 'user' => null, 'at' => gmdate('c'), 'number' => $state['said']];
    return [['type' => 'group.send', 'group' => "chat_$room", 'event' => $event]];
}

// Returns the actions for the events of one request.
function answer(array $request): array
{
    $state = $request['connection']['state'] ?? ['said' => 0];
    $room = $request['scope']['url_route']['kwargs']['room'] ?? '';
    $effects = [];
    foreach ($request['events'] as $event) {
        switch ($event['type']) {
            case 'websocket.connect':
                array_push($effects, ...connect($room));
                break;
            case 'websocket.receive':
                array_push($effects, ...receive($room, $state, $event['text'] ?? null));
                break;
            case 'websocket.disconnect':
                error_log("left $room after {$state['said']} messages: {$event['cause']}");
                break;
            case 'oneport.node_started':
                error_log("{$event['name']} began as {$event['node']}");
                break;
        }
    }
    return ['state' => $state, 'events' => $effects];
}

function handle(string $body): array
{
    if (!getenv('BACKEND_SECRET') || !is_signed($_SERVER['HTTP_ONEPORT_SIGNATURE'] ?? '', $body)) {
        return [403, 'expected a request that is signed with BACKEND_SECRET'];
    }
    return [200, answer(json_decode($body, true, 512, JSON_THROW_ON_ERROR))];
}

// With display_errors PHP prints errors into the page and responds 200. Here an error responds 500, which ends one connection.
ini_set('display_errors', '0');
set_error_handler(fn (int $level, string $message) => throw new ErrorException($message, 0, $level));
try {
    [$status, $value] = handle(file_get_contents('php://input'));
    $said = json_encode($value, JSON_THROW_ON_ERROR);
} catch (Throwable $error) {
    error_log((string) $error);
    [$status, $said] = [500, json_encode('the program failed: its log says why')];
}
http_response_code($status);
header('content-type: application/json');
echo $said;
