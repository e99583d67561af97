/** The page: puts its parts together and says what follows from what. */

import { AdapterMaker } from "./adapter-maker.ts";
import { Api, failureText } from "./api.ts";
import { Catalog } from "./catalog.ts";
import { Chat } from "./chat.ts";
import { DomainTable } from "./domain-table.ts";
import { byId, startTabs } from "./elements.ts";
import { Label } from "./label.ts";
import { OwnAdaptersList } from "./own-adapters.ts";
import { UploadedTexts } from "./passages.ts";
import { drawSamplingFields } from "./sampling-drawer.ts";
import { Score } from "./score.ts";
import { SettingsStore } from "./settings.ts";
import { Trial } from "./trial.ts";
import { Writer } from "./writer.ts";
import { YourText } from "./your-text.ts";

const settings = new SettingsStore();
// Comes first, so that it works even if a later part of the page fails to start.
byId("reset", HTMLButtonElement).addEventListener("click", () => {
  settings.reset();
  location.reload();
});
const api = new Api(location.origin, () => settings.key);
const catalog = new Catalog(api);
const openTab = startTabs(byId("tab-write", HTMLElement).parentElement!, (id) => {
  if (id === "tab-write") void writeFirst();
});

drawSamplingFields(byId("sampling", HTMLElement), settings.current.sampling, (sampling) => {
  settings.change({ sampling });
  writer.changed();
});
const domains = new DomainTable({ catalog, onAnswerer: (id) => writer.answerWith(id) });
const writer = new Writer({
  api,
  catalog,
  settings,
  now: () => performance.now(),
  draw: () => crypto.getRandomValues(new Uint32Array(1))[0] >>> 1,
  onReading: (reading) => domains.show(reading),
});

new Label({ api, catalog });
new Score({ api, catalog, prompt: () => writer.prompt });
const texts = new UploadedTexts();
const chat = new Chat({ api, catalog, texts });
const chatWith = (name: string) => {
  openTab("tab-chat");
  chat.answerWith(name);
};
const trial = new Trial({ api, catalog, texts, onKept: chatWith });
new YourText({ api, catalog, texts, trial, now: () => performance.now() });
new OwnAdaptersList({
  api,
  catalog,
  onChat: chatWith,
  onWrite: (name) => {
    openTab("tab-write");
    writer.answerWith(name);
  },
  onDeleted: (name) => {
    texts.forget(name);
    trial.close(name);
  },
});
new AdapterMaker({ api, catalog });

const key = byId("key", HTMLInputElement);
key.value = settings.key;
key.addEventListener("change", () => {
  settings.key = key.value.trim();
  loaded = start();
});

/** Loads the catalog; false, with the reason shown, where it cannot be loaded. */
async function start(): Promise<boolean> {
  const failures = ["preview-failure", "chat-failure"].map((id) => byId(id, HTMLElement));
  const reason = await catalog.load().then(() => "", failureText);
  for (const failure of failures) failure.textContent = reason;
  return reason === "";
}

let hasWritten = false;
/** Runs the first example when its tab is opened for the first time. */
async function writeFirst(): Promise<void> {
  if (hasWritten || !(await loaded)) return;
  hasWritten = true;
  await writer.begin();
}
let loaded = start();
