// The page: a document, what is read of it, and conversations about it.

import { ask, chat, currentKey, useKey } from "./api.mjs";
import { rendered } from "./markdown.mjs";
import { drawScheme } from "./scheme.mjs";

const byId = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString("en");

const state = {
  context: 0,
  text: "", // the document's
  name: "",
  talks: [[]], // lists of {role, content, thought}
  talk: 0,
  running: null, // the AbortController of what is being read or answered
};

const talk = () => state.talks[state.talk];

function problem(error) {
  byId("problem").hidden = !error;
  byId("problem").textContent = error ? `${error.message ?? error}` : "";
}

// The messages as the server gets them: the document begins the first, so that all conversations share it.
function messages(list) {
  return list.map(({ role, content }, index) => ({
    role, content: index === 0 && state.text ? `${state.text}\n\n${content}` : content,
  }));
}

function busy(controller) {
  state.running = controller;
  byId("send").disabled = byId("new").disabled = byId("file").disabled = byId("remove").disabled = !!controller;
  byId("stop").hidden = !controller;
  byId("again").hidden = !!controller || talk().at(-1)?.role !== "assistant";
  for (const button of byId("talks").querySelectorAll("button")) button.disabled = !!controller;
}

function progress(read) {
  const bar = byId("reading");
  bar.hidden = !read || read.processed >= read.total;
  if (read) {
    bar.max = read.total;
    bar.value = read.processed;
  }
}

// Messages.

function article(message) {
  const made = document.createElement("article");
  made.className = message.role;
  const heading = document.createElement("h3");
  heading.textContent = message.role === "user" ? "You" : "Answer";
  const body = document.createElement("div");
  made.append(heading, body);
  fill(body, message);
  return made;
}

function fill(body, message) {
  if (message.role === "user") {
    body.textContent = message.content;
    return;
  }
  const parts = [rendered(message.content)];
  if (message.thought) {
    const thought = document.createElement("details");
    const summary = document.createElement("summary");
    summary.textContent = "Thoughts";
    thought.append(summary, message.thought);
    parts.unshift(thought);
  }
  body.replaceChildren(...parts);
}

function show() {
  byId("messages").replaceChildren(...talk().map(article));
  byId("messages").scrollTop = byId("messages").scrollHeight;
  byId("again").hidden = !!state.running || talk().at(-1)?.role !== "assistant";
  const entries = state.talks.map((list, index) => {
    const entry = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = list[0]?.content ?? "New conversation";
    button.setAttribute("aria-pressed", index === state.talk);
    button.disabled = !!state.running;
    button.addEventListener("click", () => {
      state.talk = index;
      show();
    });
    entry.append(button);
    return entry;
  });
  byId("talks").replaceChildren(...entries);
}

// Asking.

async function answer() {
  problem(null);
  const controller = new AbortController();
  const list = talk();
  const request = { messages: messages(list) };
  const message = { role: "assistant", content: "", thought: "" };
  list.push(message);
  show();
  busy(controller);
  const body = byId("messages").lastElementChild.querySelector("div");
  let first = 0, tokens = 0, waiting = false;
  const draw = () => {
    waiting = false;
    const log = byId("messages");
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    fill(body, message);
    if (atEnd) log.scrollTop = log.scrollHeight;
  };
  try {
    for await (const chunk of chat(request, controller.signal)) {
      if (chunk.prompt_progress) progress(chunk.prompt_progress);
      if (chunk.usage) figures(chunk.usage, tokens, first);
      const delta = chunk.choices?.[0]?.delta;
      if (!delta || !(delta.content || delta.reasoning_content)) continue;
      progress(null);
      first ||= performance.now();
      tokens += 1;
      message.content += delta.content ?? "";
      message.thought += delta.reasoning_content ?? "";
      if (!waiting) {
        waiting = true;
        requestAnimationFrame(draw);
      }
    }
    byId("said").textContent = "The answer is complete.";
  } catch (error) {
    if (error.name !== "AbortError") problem(error);
    else byId("said").textContent = "Stopped.";
    if (!message.content) list.pop();
  } finally {
    progress(null);
    busy(null);
    show();
    byId("question").focus();
  }
}

function figures(usage, tokens, first) {
  const seconds = (performance.now() - first) / 1000;
  const rate = first && tokens > 1 ? `, ${((tokens - 1) / seconds).toFixed(1)} tokens/s` : "";
  const cached = usage.prompt_tokens_details.cached_tokens;
  byId("figures").textContent =
    `${number(usage.total_tokens)} of ${number(state.context)} tokens used, ` +
    `${number(cached)} were read before${rate}`;
}

// The document.

async function open(file) {
  if (state.running || !file) return;
  problem(null);
  const text = await file.text();
  if (text.includes("\u0000")) return problem(`${file.name} is not a text file`);
  const controller = new AbortController();
  busy(controller);
  const status = byId("document-state");
  status.textContent = `${file.name}: counting its tokens …`;
  try {
    const { count } = await ask("tokenize", { messages: [{ role: "user", content: text }] });
    if (count >= state.context) {
      throw new Error(`${file.name} has ${number(count)} tokens, more than the context of ${number(state.context)}`);
    }
    Object.assign(state, { text, name: file.name, talks: [[]], talk: 0 });
    byId("remove").hidden = false;
    let cached = 0;
    status.textContent = `${file.name}: ${number(count)} tokens, being read …`;
    const request = { messages: [{ role: "user", content: text }], max_tokens: 1 };
    for await (const chunk of chat(request, controller.signal)) {
      if (chunk.prompt_progress) progress(chunk.prompt_progress);
      if (chunk.usage) cached = chunk.usage.prompt_tokens_details.cached_tokens;
    }
    status.textContent = `${file.name}: ${number(count)} tokens, read (${number(cached)} were already).`;
  } catch (error) {
    if (error.name === "AbortError") status.textContent = `${file.name}: reading stopped; a question goes on with it.`;
    else {
      problem(error);
      status.textContent = state.name ? `${state.name} is open.` : "No document: ask anything.";
    }
  } finally {
    progress(null);
    busy(null);
    show();
  }
}

function remove() {
  Object.assign(state, { text: "", name: "", talks: [[]], talk: 0 });
  byId("file").value = "";
  byId("remove").hidden = true;
  byId("document-state").textContent = "No document: ask anything.";
  show();
}

// What a person does.

byId("file").addEventListener("change", (event) => open(event.target.files[0]));
byId("remove").addEventListener("click", remove);
for (const name of ["dragover", "dragleave", "drop"]) {
  byId("drop").addEventListener(name, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") open(event.dataTransfer.files[0]);
  });
}
byId("new").addEventListener("click", () => {
  if (talk().length) state.talk = state.talks.push([]) - 1;
  show();
  byId("question").focus();
});
byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = byId("question").value.trim();
  if (!question || state.running) return;
  byId("question").value = "";
  talk().push({ role: "user", content: question });
  answer();
});
byId("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId("ask").requestSubmit();
  }
});
byId("stop").addEventListener("click", () => state.running?.abort());
byId("again").addEventListener("click", () => {
  talk().pop();
  answer();
});
byId("key").value = currentKey();
byId("key").addEventListener("change", (event) => {
  useKey(event.target.value);
  start();
});

async function start() {
  problem(null);
  try {
    const { data: [model] } = await ask("v1/models");
    state.context = model.max_model_len;
    byId("model").textContent = model.id;
    document.title = `${model.id} · dca-serve`;
    drawScheme(byId("scheme"), model.meta, model.max_model_len);
  } catch (error) {
    byId("key-part").open = true;
    problem(error);
  }
}

show();
start();
