/** Chat: a conversation through the model's own template, with the model's own sampling. */
import type { ChameleonBlock, ChatChunk } from "../../shared/contracts/responses.ts";
import { CallFailure, failureText, isAbort } from "./api.ts";
import { drawExamples, fillAnswerers } from "./catalog-controls.ts";
import { byId, make } from "./elements.ts";
import { legendRow, listExperts, sourcesLegendRow } from "./experts.ts";
import type { Page } from "./page.ts";
import { lookedUpNodes, tokenNodes } from "./passages.ts";
import { piecesOf } from "./pieces.ts";
import { wishOf } from "./request.ts";
import { TokenText } from "./token-text.ts";

interface Message {
  role: "system" | "user" | "assistant";
  content: string;
}

/** Tokens of a reply, at most. */
const maxTokens = 300;
const examples = [
  "What is the capital of France?",
  "Explain in two sentences why the sky is blue.",
  "Write a short note to thank a colleague for her help.",
].map((text) => ({ name: text, text }));

export class Chat {
  readonly #page: Page;
  /** Of the first message's answer; null lets the server draw one. */
  #seed: number | null;
  readonly #input = byId("chat-input", HTMLTextAreaElement);
  readonly #answerer = byId("chat-answerer", HTMLSelectElement);
  readonly #send = byId("chat-send", HTMLButtonElement);
  readonly #log = byId("chat-log");
  readonly #weights = byId("chat-weights");
  readonly #legend = byId("chat-legend");
  readonly #failure = byId("chat-failure");
  readonly #panel = byId("chat-passage");
  readonly #tokens: TokenText;
  readonly #messages: Message[] = [];
  /** The elements of all replies, by number. */
  readonly #replies: HTMLElement[] = [];
  #running: AbortController | null = null;

  constructor(page: Page, seed: number | null) {
    this.#page = page;
    this.#seed = seed;
    const { catalog, texts } = page;
    // It scrolls, so that the message stays in sight.
    this.#panel.tabIndex = 0;
    this.#tokens = new TokenText(
      this.#log,
      (reply) => this.#replies[reply],
      ({ choice, index }) => this.#panel.replaceChildren(...tokenNodes(this.#tokens.pieces(choice)[index], texts)),
    );
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

  /** Lets the next message be answered by this adapter. */
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
    this.#replies.length = 0;
    this.#tokens.clear();
    for (const element of [this.#weights, this.#legend, this.#panel, this.#failure]) element.replaceChildren();
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
    const running = new AbortController();
    const asked = this.#input.value;
    // Figures of the answer before do not stand beside this one.
    for (const element of [this.#weights, this.#panel, this.#failure, status]) element.replaceChildren();
    let reply = -1;
    try {
      if (asked.trim() === "") throw new CallFailure("Write a message first.");
      const opening: Message[] = system.trim() === "" ? [] : [{ role: "system", content: system }];
      const messages = [...opening, ...this.#messages, { role: "user", content: asked }];
      const retrieve = byId("chat-look-up", HTMLInputElement).checked ? 1 : null;
      const wish = wishOf(this.#answerer.value, null, { compare: true, sources: true, retrieve });
      const isFirst = this.#messages.length === 0;
      const seed = this.#seed;
      this.#seed = null;
      const body = { messages, max_tokens: maxTokens, ...(seed !== null && { seed }), ...wish };
      this.#running = running;
      this.#send.textContent = "Stop";
      this.#add("user", asked);
      reply = this.#replies.push(this.#add("assistant", "")) - 1;
      this.#showBeginning();
      this.#input.value = "";
      sent("chat", asked, seed);
      for await (const chunk of api.chunks<ChatChunk>("/v1/chat/completions", body, running.signal)) {
        for (const { delta, chameleon, finish_reason } of chunk.choices) {
          const pieces = piecesOf({ text: delta.content ?? "", logprobs: null, chameleon }, "adapted");
          for (const piece of pieces) this.#tokens.add(reply, piece);
          this.#log.scrollTop = this.#log.scrollHeight;
          if (!finish_reason) continue;
          const block = chameleon as ChameleonBlock;
          this.#showMade(block);
          if (isFirst) sent("chat", asked, block.seed);
        }
      }
      status.textContent = "The reply is complete.";
    } catch (error) {
      // The conversation was cleared meanwhile.
      if (isAbort(error) && this.#running !== running) return;
      if (isAbort(error)) status.textContent = "Stopped; what was written is kept.";
      else this.#failure.textContent = failureText(error);
    }
    const written = reply < 0 ? "" : this.#tokens.text(reply);
    if (reply >= 0 && (written !== "" || running.signal.aborted)) {
      this.#messages.push({ role: "user", content: asked }, { role: "assistant", content: written });
    } else if (reply >= 0) {
      // Nothing came: the message can be sent again.
      this.#replies.pop()!.closest("li")!.remove();
      this.#log.lastElementChild?.remove();
      this.#input.value = asked;
      this.#showBeginning();
    }
    if (this.#running === running) this.#running = null;
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
