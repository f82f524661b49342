<?php

// A chat behind `consumer = "backend"`: an ordinary PHP page.

declare(strict_types=1);

// Tells whether the request comes from Oneport, and from this minute or the few around it.
function is_signed(string $signature, string $body): bool
{
    parse_str(strtr($signature, ',', '&'), $fields);
    $at = (string) ($fields['t'] ?? '');
    $wanted = hash_hmac('sha256', "$at.$body", (string) getenv('BACKEND_SECRET'));
    return hash_equals($wanted, (string) ($fields['v1'] ?? '')) && abs(time() - (int) $at) < 300;
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

// Says what shall happen after the events of one request.
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

$body = file_get_contents('php://input');
header('content-type: application/json');
if (getenv('BACKEND_SECRET') && is_signed($_SERVER['HTTP_ONEPORT_SIGNATURE'] ?? '', $body)) {
    echo json_encode(answer(json_decode($body, true, 512, JSON_THROW_ON_ERROR)), JSON_THROW_ON_ERROR);
} else {
    http_response_code(403);
    echo json_encode('expected a request that is signed with BACKEND_SECRET');
}
