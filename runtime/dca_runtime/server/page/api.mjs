// Speaks to the server that the page came from.

let key = sessionStorage.getItem("key") ?? "";

export function currentKey() {
  return key;
}

export function useKey(given) {
  key = given;
  sessionStorage.setItem("key", given); // of this tab; gone when it is closed
}

function headers() {
  return { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
}

async function failure(reply) {
  const body = await reply.json().catch(() => ({}));
  return new Error(body.error?.message ?? `the server says ${reply.status}`);
}

export async function ask(path, body) {
  const reply = await fetch(path, {
    method: body === undefined ? "GET" : "POST",
    headers: headers(),
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (!reply.ok) throw await failure(reply);
  return reply.json();
}

// The chunks of a streamed chat, one by one.
export async function* chat(request, signal) {
  const body = { ...request, stream: true, stream_options: { include_usage: true }, return_progress: true };
  const reply = await fetch("v1/chat/completions", {
    method: "POST", headers: headers(), body: JSON.stringify(body), signal,
  });
  if (!reply.ok) throw await failure(reply);
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (held + value).split("\n");
    held = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const chunk = JSON.parse(line.slice(6));
      if (chunk.error) throw new Error(chunk.error.message);
      yield chunk;
    }
  }
}
