/** The page: puts its parts together and says what follows from what. */

import { AdapterMaker, sampleExamples } from "./adapter-maker.ts";
import { Api, failureText } from "./api.ts";
import { Catalog } from "./catalog.ts";
import { fillAnswerers } from "./catalog-controls.ts";
import { Chat } from "./chat.ts";
import { byId, startTabs } from "./elements.ts";
import { DomainMap } from "./map.ts";
import { drawSamplingFields } from "./sampling-drawer.ts";
import { Score } from "./score.ts";
import { SettingsStore } from "./settings.ts";
import { Writer } from "./writer.ts";

const settings = new SettingsStore();
// Comes first, so that it works even if a later part of the page fails to start.
byId("reset", HTMLButtonElement).addEventListener("click", () => {
  settings.reset();
  location.reload();
});
const api = new Api(location.origin, () => settings.key);
const catalog = new Catalog(api);
const input = (id: string) => byId(id, HTMLInputElement);
const textarea = (id: string) => byId(id, HTMLTextAreaElement);
const select = (id: string) => byId(id, HTMLSelectElement);
const form = (id: string) => byId(id, HTMLFormElement);
const element = (id: string) => byId(id, HTMLElement);
const openTab = startTabs(element("tab-write").parentElement!);

drawSamplingFields(element("sampling"), settings.current.sampling, (sampling) => {
  settings.change({ sampling });
  writer.changed();
});
const map = new DomainMap({
  catalog,
  map: element("map"),
  details: element("map-details"),
  table: element("map-table"),
  onExample: (prompt) => writer.writeExample(prompt),
  onAnswerer: (id) => writer.answerWith(id),
});
const writer = new Writer({
  api,
  catalog,
  settings,
  now: () => performance.now(),
  draw: () => crypto.getRandomValues(new Uint32Array(1))[0] >>> 1,
  onReading: (reading) => map.place(reading),
});

const everyone = [
  ["auto", "What the text decides"],
  ["nearest", "The nearest domain alone"],
] as const;
const score = { text: textarea("score-text"), adapter: select("score-adapter") };
fillAnswerers(score.adapter, catalog, [["nearest", "The nearest domain's"]]);
new Score({
  ...{ api, catalog, ...score, form: form("score-form"), readShare: select("score-read") },
  ...{ result: element("score-result"), failure: element("score-failure") },
});
byId("score-prompt", HTMLButtonElement).addEventListener("click", () => {
  score.text.value = settings.current.prompt ?? textarea("prompt").value;
});

const examples = textarea("adapter-examples");
const maker = new AdapterMaker({
  ...{ api, catalog, examples, form: form("adapter-form"), name: input("adapter-name") },
  ...{ counted: element("adapter-count"), result: element("adapter-result"), failure: element("adapter-failure") },
  list: element("adapter-list"),
  onUse: (name) => {
    openTab("tab-write");
    writer.answerWith(name);
  },
});
byId("adapter-sample", HTMLButtonElement).addEventListener("click", () => {
  examples.value = sampleExamples;
  input("adapter-name").value ||= "recipes";
  maker.count();
});

const chatAnswerer = select("chat-answerer");
fillAnswerers(chatAnswerer, catalog, [...everyone, ["off", "The base alone"]]);
new Chat({
  ...{ api, form: form("chat-form"), input: textarea("chat-input"), system: input("chat-system") },
  ...{ send: byId("chat-send", HTMLButtonElement), clear: byId("chat-clear", HTMLButtonElement) },
  ...{ log: element("chat-log"), weights: element("chat-weights"), failure: element("chat-failure") },
  ...{ status: element("chat-status"), legend: element("chat-legend") },
  answerer: () => ({ choice: chatAnswerer.value, list: "" }),
  sampling: () => writer.sampling(),
  nameOf: (id) => catalog.nameOf(id),
});

const key = input("key");
key.value = settings.key;
key.addEventListener("change", () => {
  settings.key = key.value.trim();
  void start();
});

async function start(): Promise<void> {
  const failure = element("preview-failure");
  try {
    await catalog.load();
    failure.textContent = "";
  } catch (error) {
    failure.textContent = failureText(error);
    return;
  }
  await writer.begin();
}
await start();
