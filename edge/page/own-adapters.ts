import type { Adapter } from "../../shared/contracts/responses.ts";
import { failureText } from "./api.ts";
import { button, byId, make } from "./elements.ts";
import type { Page } from "./page.ts";
import { pathOf } from "./uploads.ts";
import { count, percent, surpriseBeside } from "./words.ts";

const pollMs = 2000;

export function startOwnAdapters({ api, catalog, texts, chatWith, writeWith }: Page): void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const attempt = async (action: () => Promise<void>) => {
    byId("list-failure").textContent = await action().then(() => "", failureText);
  };
  const remove = (name: string) =>
    attempt(async () => {
      if (!confirm(`Delete ${name}? Its text is deleted from this server, and answers that read it end.`)) return;
      await api.json(pathOf(name), undefined, { method: "DELETE" });
      texts.forget(name);
      await catalog.load();
      byId("list-status").textContent = `${name} is deleted.`;
    });
  const itemOf = (adapter: Adapter) => {
    const { name } = adapter;
    const act = (text: string, action: () => void) => button(text, action, { "aria-label": `${text}: ${name}` });
    const uses = [act("Chat with it", () => chatWith(name)), act("Write with it", () => writeWith(name))];
    return make(
      "li",
      { "data-adapter": name },
      make("b", {}, name),
      ...[memoryText(adapter), gainText(adapter)].filter(Boolean).map((text) => make("p", { class: "quiet" }, text)),
      make(
        "p",
        { class: "actions" },
        ...(catalog.usableAdapters.includes(adapter) ? uses : []),
        act("Delete", () => void remove(name)),
      ),
    );
  };
  catalog.onChange(() => {
    const items = catalog.adapters.map(itemOf);
    const shown = items.length > 0 ? items : [make("li", { class: "quiet" }, "Nothing yet.")];
    byId("adapter-list").replaceChildren(...shown);
    clearTimeout(timer);
    if (catalog.adapters.some(({ memory }) => memory?.status === "queued" || memory?.status === "building")) {
      timer = setTimeout(() => void attempt(() => catalog.load()), pollMs);
    }
  });
}

function memoryText({ memory }: Adapter): string {
  if (!memory) return "";
  const { status, error, documents, tokens, built_tokens } = memory;
  const state = {
    ready: "ready",
    building: `${percent(built_tokens / tokens)} read`,
    queued: `waits for a backend${error ? `: ${error}` : ""}`,
    failed: `failed: ${error}`,
  };
  return `${count(documents, "document")}, ${count(tokens, "token")}; ${state[status]}`;
}

/** The gain of an adapter that was fitted to examples, or the state of its refit; else "". */
export function gainText({ gain, message, refit, examples }: Adapter): string {
  if (refit?.status === "failed") return `It cannot be made for the artifacts that are served now: ${refit.error}`;
  if (refit) return "It answers with the artifacts before; it is being made again for those that are served now.";
  if (examples === 0) return "";
  if (!gain) return message ?? "It gains nothing, so the base answers.";
  return `On ${count(gain.tokens, "token")} of examples that it was not made from: ${surpriseBeside(gain.nats)}.`;
}
