<?php // Pomelo's chat sample behind shaddock, with PHP's built-in server: php -S 127.0.0.1:8000 chat.php
declare(strict_types=1);

$file = getenv("CHAT_STATE") ?: sys_get_temp_dir() . "/shaddock-chat-{$_SERVER["SERVER_PORT"]}.json";
$keys = array_filter(array_map(fn($text) => base64_decode(substr($text, strlen("whsec_"))), explode(" ", (string) getenv("CHAT_SECRET"))), fn($key) => $key !== "");
if ($keys === []) { http_response_code(500); error_log("CHAT_SECRET has no key"); exit("{}"); } // With an empty one everybody could sign.
$body = file_get_contents("php://input");
[$id, $sent] = [$_SERVER["HTTP_WEBHOOK_ID"] ?? "", $_SERVER["HTTP_WEBHOOK_TIMESTAMP"] ?? ""];

function is_signed(array $keys, string $id, string $sent, string $body): bool {
    if (!ctype_digit($sent) || abs(time() - (int) $sent) > 300) return false;
    $is_good = false;
    foreach (explode(" ", $_SERVER["HTTP_WEBHOOK_SIGNATURE"] ?? "") as $given)
        foreach ($keys as $key)
            $is_good = hash_equals("v1," . base64_encode(hash_hmac("sha256", "$id.$sent.$body", $key, true)), $given) || $is_good;
    return $is_good;
}

function users(array $members, string $room): array {
    $names = array_column(array_filter($members, fn($one) => $one["room"] === $room), "name");
    sort($names);
    return $names;
}

function push(string $route, array $body, string $room, array $names): array { // A user is a name in a room.
    return ["push" => ["route" => $route, "body" => $body, "users" => array_map(fn($name) => "$name*$room", $names)]];
}

function answer(array &$members, array $call): array {
    $sid = $call["session"]["sid"];
    switch ($call["event"] ?? $call["route"]) { // Not the path, which is not signed.
        case "connector.entryHandler.enter": // A real chat asks for a token here.
            ["rid" => $room, "username" => $name] = $call["body"];
            $others = users($members, $room);
            if (isset($members[$sid]) || in_array($name, $others, true) || $name === "" || str_contains($name, "*")) return ["body" => ["code" => 500, "error" => true]];
            $members[$sid] = ["room" => $room, "name" => $name];
            return ["body" => ["users" => users($members, $room)], "actions" => [["bind" => "$name*$room"], ["set" => ["rid" => $room]], push("onAdd", ["user" => $name], $room, $others)]];
        case "chat.chatHandler.send":
            if (!isset($members[$sid])) return ["error" => ["code" => "CHAT-401", "message" => "enter a room first"]];
            ["room" => $room, "name" => $name] = $members[$sid];
            ["content" => $text, "target" => $target] = $call["body"];
            $to = array_values(array_filter(users($members, $room), fn($one) => $target === "*" || $one === $target));
            return ["body" => ["code" => $to ? 200 : 404], "actions" => [push("onChat", ["msg" => $text, "from" => $name, "target" => $target], $room, $to)]];
        case "closed":
            ["room" => $room, "name" => $name] = $members[$sid] ?? ["room" => "", "name" => ""];
            unset($members[$sid]);
            return $name === "" ? ["actions" => []] : ["actions" => [push("onLeave", ["user" => $name], $room, users($members, $room))]];
        default:
            return ["error" => ["code" => "CHAT-404", "message" => "no such route"]];
    }
}

header("content-type: application/json");
if (!is_signed($keys, $id, $sent, $body)) { http_response_code(401); exit("{}"); }
$state = fopen($file, "c+"); // PHP forgets everything after a request: what is remembered is in a file.
flock($state, LOCK_EX);
["members" => $members, "seen" => $seen] = json_decode(stream_get_contents($state), true) ?? ["members" => [], "seen" => []];
$seen = array_filter($seen, fn($one) => $one["time"] > time() - 600); // Older ones have an old timestamp.
$seen[$id] ??= ["time" => time(), "answer" => json_encode(answer($members, json_decode($body, true)), JSON_UNESCAPED_UNICODE)]; // One that is repeated is carried out once.
ftruncate($state, 0);
rewind($state);
fwrite($state, json_encode(["members" => $members, "seen" => $seen]));
fclose($state);
echo $seen[$id]["answer"];
