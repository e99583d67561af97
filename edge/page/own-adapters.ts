/** The list of the key's own adapters: what each holds and gains, and buttons to use or delete it. */
import type { Adapter } from "../../shared/contracts/responses.ts";
import { failureText } from "./api.ts";
import { button, byId, make } from "./elements.ts";
import { pathOf } from "./memory-jobs.ts";
import type { Page } from "./page.ts";
import { count, percent, surpriseBeside, surpriseInterval } from "./words.ts";

/** Time between two looks at adapters whose documents are still read, in milliseconds. */
const lookMs = 2000;

export class OwnAdaptersList {
  readonly #page: Page;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(page: Page) {
    this.#page = page;
    page.catalog.onChange(() => this.#draw());
  }

  #draw(): void {
    const { catalog, chatWith, writeWith } = this.#page;
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
            ? [act("Chat with it", () => chatWith(name)), act("Write with it", () => writeWith(name))]
            : []),
          act("Delete", () => void this.#delete(name)),
        ),
      );
    });
    const shown = items.length > 0 ? items : [make("li", { class: "quiet" }, "Nothing yet.")];
    byId("adapter-list").replaceChildren(...shown);
    clearTimeout(this.#timer);
    if (catalog.adapters.some(({ memory }) => memory?.status === "queued" || memory?.status === "building")) {
      this.#timer = setTimeout(() => void this.#attempt(() => catalog.load()), lookMs);
    }
  }

  async #delete(name: string): Promise<void> {
    const { api, catalog, forget } = this.#page;
    if (!confirm(`Delete ${name}? Its text is deleted from this server, and answers that read it end.`)) return;
    await this.#attempt(async () => {
      await api.json(pathOf(name), undefined, { method: "DELETE" });
      forget(name);
      await catalog.load();
      byId("list-status").textContent = `${name} is deleted.`;
    });
  }

  async #attempt(action: () => Promise<void>): Promise<void> {
    const failure = byId("list-failure");
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
  return `On ${count(gain.tokens, "token")} of examples that it was not made from: ${surpriseBeside(gain.nats)} (95% interval: ${surpriseInterval(gain.ci95)}).`;
}
