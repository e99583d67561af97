/** “Chat”: a conversation in the model's chat template, with the model's default sampling. */
import type { ChatMessage } from "../../shared/contracts/chat.ts";
import type { ChameleonBlock, ChatChunk } from "../../shared/contracts/responses.ts";
import { failureText, isAbort } from "./api.ts";
import { drawExamples, fillAnswerers } from "./catalog-controls.ts";
import { byId, make } from "./elements.ts";
import { legendRow, listExperts, sourcesLegendRow } from "./experts.ts";
import type { Page } from "./page.ts";
import { lookedUpNodes, tokenNodes } from "./passages.ts";
import { type Piece, piecesOf } from "./pieces.ts";
import { wishOf } from "./request.ts";
import { tokenText } from "./token-text.ts";

const maxTokens = 300;
const examples = [
  "What is the capital of France?",
  "Explain in two sentences why the sky is blue.",
  "Write a short note to thank a colleague for her help.",
].map((text) => ({ name: text, text }));

export class Chat {
  readonly #page: Page;
  /** Seed of the first reply; null: the server draws a seed. */
  #seed: number | null;
  readonly #input = byId("chat-input", HTMLTextAreaElement);
  readonly #answerer = byId("chat-answerer", HTMLSelectElement);
  readonly #send = byId("chat-send", HTMLButtonElement);
  readonly #log = byId("chat-log");
  readonly #weights = byId("chat-weights");
  readonly #legend = byId("chat-legend");
  readonly #failure = byId("chat-failure");
  readonly #panel = byId("chat-passage");
  readonly #addToken: (reply: HTMLElement, piece: Piece) => void;
  readonly #messages: ChatMessage[] = [];
  #running: AbortController | null = null;

  constructor(page: Page, seed: number | null) {
    this.#page = page;
    this.#seed = seed;
    const { catalog, texts } = page;
    // The panel scrolls, so it must be reachable by keyboard.
    this.#panel.tabIndex = 0;
    this.#addToken = tokenText(this.#log, (piece) => this.#panel.replaceChildren(...tokenNodes(piece, texts)));
    fillAnswerers(this.#answerer, catalog, [
      ["auto", "what the text decides"],
      ["nearest", "the nearest kind of text"],
      ["off", "the base alone"],
    ]);
    catalog.onChange(() => {
      byId("look-up").hidden = catalog.adapters.every(({ memory }) => memory === null);
    });
    byId("chat-form", HTMLFormElement).addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#running) this.#running.abort();
      else void this.#ask();
    });
    this.#input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      if (!this.#running) void this.#ask();
    });
    drawExamples(byId("chat-examples"), examples, ({ text }) => {
      this.#input.value = text;
      if (!this.#running) void this.#ask();
    });
    byId("chat-clear", HTMLButtonElement).addEventListener("click", () => this.#clear());
  }

  answerWith(id: string): void {
    this.#answerer.value = id;
    this.#input.focus();
  }

  #clear(): void {
    const running = this.#running;
    this.#running = null;
    running?.abort();
    this.#send.textContent = "Send";
    this.#messages.length = 0;
    for (const element of [this.#log, this.#weights, this.#legend, this.#panel, this.#failure])
      element.replaceChildren();
    this.#showBeginning();
    this.#input.focus();
  }

  #showBeginning(): void {
    const isEmpty = this.#log.childElementCount === 0;
    byId("chat-empty").hidden = !isEmpty;
    byId("chat-clear").hidden = isEmpty;
  }

  async #ask(): Promise<void> {
    const { api, sent } = this.#page;
    const status = byId("chat-status");
    const system = byId("chat-system", HTMLInputElement).value;
    const asked = this.#input.value;
    // Weights, panel and messages of an earlier reply would appear to belong to the new reply.
    for (const element of [this.#weights, this.#panel, this.#failure, status]) element.replaceChildren();
    if (asked.trim() === "") {
      this.#failure.textContent = "Write a message first.";
      return;
    }
    const opening: ChatMessage[] = system.trim() === "" ? [] : [{ role: "system", content: system }];
    const messages = [...opening, ...this.#messages, { role: "user", content: asked }];
    const retrieve = byId("chat-look-up", HTMLInputElement).checked ? 1 : null;
    const wish = wishOf(this.#answerer.value, null, { compare: true, sources: true, retrieve });
    const isFirst = this.#messages.length === 0;
    const seed = this.#seed;
    this.#seed = null;
    const body = { messages, max_tokens: maxTokens, ...(seed !== null && { seed }), ...wish };
    const running = new AbortController();
    this.#running = running;
    this.#send.textContent = "Stop";
    this.#add("user", asked);
    const reply = this.#add("assistant", "");
    this.#showBeginning();
    this.#input.value = "";
    sent("chat", asked, seed);
    try {
      for await (const chunk of api.chunks<ChatChunk>("/v1/chat/completions", body, running.signal)) {
        const [{ delta, chameleon, finish_reason }] = chunk.choices;
        const pieces = piecesOf({ text: delta.content ?? "", logprobs: null, chameleon }, "adapted");
        for (const piece of pieces) this.#addToken(reply, piece);
        this.#log.scrollTop = this.#log.scrollHeight;
        if (!finish_reason) continue;
        const block = chameleon as ChameleonBlock;
        this.#showMade(block);
        if (isFirst) sent("chat", asked, block.seed);
      }
      status.textContent = "The reply is complete.";
    } catch (error) {
      if (isAbort(error) && this.#running !== running) return;
      if (isAbort(error)) status.textContent = "Stopped; what was written is kept.";
      else this.#failure.textContent = failureText(error);
    }
    if (reply.textContent !== "" || running.signal.aborted) {
      this.#messages.push({ role: "user", content: asked }, { role: "assistant", content: reply.textContent });
    } else {
      // Without a reply, the message returns to the input field, so that the user can send it again.
      for (let i = 0; i < 2; i++) this.#log.lastElementChild?.remove();
      this.#input.value = asked;
      this.#showBeginning();
    }
    this.#running = null;
    this.#send.textContent = "Send";
  }

  #showMade({ experts, memories, retrieved }: ChameleonBlock): void {
    listExperts(this.#weights, experts, (id) => this.#page.catalog.nameOf(id));
    this.#legend.replaceChildren(memories ? sourcesLegendRow() : legendRow());
    if (retrieved) this.#panel.replaceChildren(...lookedUpNodes(retrieved));
  }

  #add(role: "user" | "assistant", text: string): HTMLElement {
    const body = make("p", {}, text);
    const who = make("span", { class: "who" }, role === "user" ? "You" : "Model");
    this.#log.append(make("li", { class: role }, who, body));
    this.#log.scrollTop = this.#log.scrollHeight;
    return body;
  }
}
