/** The list of the key's own adapters: what each holds and gains, and buttons to use or delete it. */
import type { Adapter } from "../../shared/contracts/responses.ts";
import { type Api, failureText } from "./api.ts";
import type { Catalog } from "./catalog.ts";
import { button, byId, make } from "./elements.ts";
import { pathOf } from "./memory-jobs.ts";
import { count, percent, perplexityBesideBase, perplexityInterval } from "./words.ts";

export interface OwnAdaptersParts {
  api: Api;
  catalog: Catalog;
  onChat(name: string): void;
  onWrite(name: string): void;
  onDeleted(name: string): void;
}

/** Time between two looks at adapters whose documents are still read, in milliseconds. */
const lookMs = 2000;

export class OwnAdaptersList {
  readonly #parts: OwnAdaptersParts;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(parts: OwnAdaptersParts) {
    this.#parts = parts;
    parts.catalog.onChange(() => this.#draw());
  }

  #draw(): void {
    const { catalog, onChat, onWrite } = this.#parts;
    const usable = catalog.usableAdapters;
    const items = catalog.adapters.map((adapter) => {
      const { name } = adapter;
      const act = (text: string, action: () => void) => button(text, action, { "aria-label": `${text}: ${name}` });
      return make(
        "li",
        { "data-adapter": name },
        make("b", {}, name),
        ...[memoryText(adapter), gainText(adapter)].filter(Boolean).map((text) => make("p", { class: "quiet" }, text)),
        make(
          "p",
          { class: "actions" },
          ...(usable.includes(adapter)
            ? [act("Chat with it", () => onChat(name)), act("Write with it", () => onWrite(name))]
            : []),
          act("Delete", () => void this.#delete(name)),
        ),
      );
    });
    const shown = items.length > 0 ? items : [make("li", { class: "quiet" }, "None yet.")];
    byId("adapter-list", HTMLElement).replaceChildren(...shown);
    clearTimeout(this.#timer);
    if (catalog.adapters.some(({ memory }) => memory?.status === "queued" || memory?.status === "building")) {
      this.#timer = setTimeout(() => void this.#attempt(() => catalog.load()), lookMs);
    }
  }

  async #delete(name: string): Promise<void> {
    const { api, catalog, onDeleted } = this.#parts;
    if (!confirm(`Delete ${name}? Its text is deleted from this server, and answers that read it end.`)) return;
    await this.#attempt(async () => {
      await api.json(pathOf(name), undefined, { method: "DELETE" });
      onDeleted(name);
      await catalog.load();
      byId("list-status", HTMLElement).textContent = `${name} is deleted.`;
    });
  }

  async #attempt(action: () => Promise<void>): Promise<void> {
    const failure = byId("list-failure", HTMLElement);
    failure.textContent = "";
    await action().catch((error: unknown) => {
      failure.textContent = failureText(error);
    });
  }
}

/** How an adapter's documents stand; "" without any. */
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

/** What an adapter gains by the examples that it was fitted to, in words; "" without any. */
export function gainText({ gain, message, refit, examples }: Adapter): string {
  if (refit?.status === "failed") return `It cannot be made for the artifacts that are served now: ${refit.error}`;
  if (refit) return "It answers with the artifacts before; it is being made again for those that are served now.";
  if (examples === 0) return "";
  if (!gain) return message ?? "It gains nothing, so the base answers.";
  return `On ${count(gain.tokens, "token")} of examples that it was not made from: ${perplexityBesideBase(gain.nats)} (95% interval: ${perplexityInterval(gain.ci95)}).`;
}
