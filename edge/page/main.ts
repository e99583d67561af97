import { Api, failureText } from "./api.ts";
import { Catalog } from "./catalog.ts";
import { offerRecent } from "./catalog-controls.ts";
import { Chat } from "./chat.ts";
import { byId, startTabs } from "./elements.ts";
import { startLabel } from "./label.ts";
import { startOwnAdapters } from "./own-adapters.ts";
import type { Page } from "./page.ts";
import { UploadedTexts } from "./passages.ts";
import { startScore } from "./score.ts";
import { SettingsStore } from "./settings.ts";
import { hashOf, readShared, type Shared } from "./share.ts";
import { drawSamplingFields } from "./write-drawers.ts";
import { Writer } from "./writer.ts";
import { YourText } from "./your-text.ts";

const settings = new SettingsStore();
// First, so that a reset works even if a later part of the page fails to start.
byId("reset", HTMLButtonElement).addEventListener("click", () => {
  settings.reset();
  location.replace(location.pathname);
});
const api = new Api(location.origin, () => settings.key);
const catalog = new Catalog(api);

const shared = readShared(location.hash);
const isSharedPrompt = shared.tab === "write" && shared.text !== null;
if (isSharedPrompt) {
  const { sampling } = settings.current;
  const seed = shared.seed === null ? sampling.seed : String(shared.seed);
  settings.change({ prompt: shared.text, sampling: { ...sampling, seed } });
}
// The event comes late: an opened tab may have replaced the address of a followed link by then.
addEventListener("hashchange", ({ newURL }) => {
  if (readShared(new URL(newURL).hash).tab !== "") location.reload();
});
const sent = new Map<string, Shared>([[shared.tab, shared]]);
const showAddress = (tab: string) =>
  history.replaceState(null, "", hashOf(sent.get(tab) ?? { tab, text: null, seed: null }));

let hasWritten = false;
const openTab = startTabs(byId("tabs"), (id) => {
  showAddress(id.replace("tab-", ""));
  if (id === "tab-write") void writeFirst();
});
const page: Page = {
  ...{ api, catalog, settings, texts: new UploadedTexts() },
  now: () => performance.now(),
  draw: () => crypto.getRandomValues(new Uint32Array(1))[0] >>> 1,
  sent(tab, text, seed = null) {
    sent.set(tab, { tab, text, seed });
    settings.remember(text);
    showAddress(tab);
  },
  chatWith(adapter) {
    openTab("tab-chat");
    chat.answerWith(adapter);
  },
  writeWith(adapter) {
    // Prevents `openTab` from running the first example.
    hasWritten = true;
    openTab("tab-write");
    writer.answerWith(adapter);
  },
};
drawSamplingFields(settings.current.sampling, (sampling) => {
  settings.change({ sampling });
  writer.changed();
});
const writer = new Writer(page);
const chat = new Chat(page, shared.tab === "chat" ? shared.seed : null);
startLabel(page);
startScore(page);
new YourText(page);
startOwnAdapters(page);
const ids = { chat: "chat-input", write: "prompt", label: "label-text", score: "score-text" };
for (const [tab, id] of Object.entries(ids)) {
  const input = byId(id, HTMLTextAreaElement);
  offerRecent(input, settings);
  if (tab === shared.tab && shared.text !== null) input.value = shared.text;
}

const key = byId("key", HTMLInputElement);
key.value = settings.key;
key.addEventListener("change", () => {
  settings.key = key.value.trim();
  loaded = start();
});
byId("retry", HTMLButtonElement).addEventListener("click", () => {
  loaded = start();
});
let loaded = start();
if (Object.hasOwn(ids, shared.tab)) openTab(`tab-${shared.tab}`);

/** Shows why the catalog cannot be loaded. Resolves to whether it is loaded. */
async function start(): Promise<boolean> {
  const reason = await catalog.load().then(() => "", failureText);
  byId("page-failure").textContent = reason;
  byId("retry").hidden = reason === "";
  return reason === "";
}

/** When “Continue” is first opened, runs the prompt in the address; without a prompt, `Writer.begin`. */
async function writeFirst(): Promise<void> {
  if (hasWritten || !(await loaded)) return;
  hasWritten = true;
  if (isSharedPrompt) await writer.write();
  else await writer.begin();
}
