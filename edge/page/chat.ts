/** Chat: a conversation through the model's own template, with the model's own sampling. */
import type { ChameleonBlock, ChatChunk } from "../../shared/contracts/responses.ts";
import { type Api, CallFailure, failureText, isAbort } from "./api.ts";
import type { Catalog } from "./catalog.ts";
import { fillAnswerers } from "./catalog-controls.ts";
import { button, byId, make } from "./elements.ts";
import { legendRow, showExperts, sourcesLegendRow } from "./experts.ts";
import { SourcedTokens, showLookedUp, showPassages, sourcedPieces, type UploadedTexts } from "./passages.ts";
import { wishOf } from "./request.ts";
import { likelier, stepOf } from "./words.ts";

interface Message {
  role: "system" | "user" | "assistant";
  content: string;
}

export interface ChatParts {
  api: Api;
  catalog: Catalog;
  texts: UploadedTexts;
}

/** Tokens of a reply, at most. */
const maxTokens = 300;
const examples = [
  "What is the capital of France?",
  "Explain in two sentences why the sky is blue.",
  "Write a short note to thank a colleague for her help.",
];

export class Chat {
  readonly #parts: ChatParts;
  readonly #input = byId("chat-input", HTMLTextAreaElement);
  readonly #answerer = byId("chat-answerer", HTMLSelectElement);
  readonly #send = byId("chat-send", HTMLButtonElement);
  readonly #log = byId("chat-log", HTMLElement);
  readonly #weights = byId("chat-weights", HTMLElement);
  readonly #legend = byId("chat-legend", HTMLElement);
  readonly #failure = byId("chat-failure", HTMLElement);
  readonly #passage = byId("chat-passage", HTMLElement);
  readonly #tokens: SourcedTokens;
  readonly #messages: Message[] = [];
  #running: AbortController | null = null;

  constructor(parts: ChatParts) {
    this.#parts = parts;
    this.#tokens = new SourcedTokens(this.#log, (piece) => showPassages(this.#passage, piece, parts.texts));
    fillAnswerers(this.#answerer, parts.catalog, [
      ["auto", "What the text decides"],
      ["nearest", "The nearest domain alone"],
      ["off", "The base alone"],
    ]);
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
    const asking = (text: string) => {
      this.#input.value = text;
      if (!this.#running) void this.#ask();
    };
    byId("chat-examples", HTMLElement).append(...examples.map((text) => button(text, () => asking(text))));
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
    for (const element of [this.#log, this.#weights, this.#legend, this.#passage, this.#failure])
      element.replaceChildren();
  }

  async #ask(): Promise<void> {
    const { api } = this.#parts;
    const status = byId("chat-status", HTMLElement);
    const system = byId("chat-system", HTMLInputElement).value;
    const running = new AbortController();
    this.#failure.textContent = "";
    const asked = this.#input.value;
    let answer: HTMLElement | null = null;
    let written = "";
    try {
      if (asked.trim() === "") throw new CallFailure("Write a message first.");
      const opening: Message[] = system.trim() === "" ? [] : [{ role: "system", content: system }];
      const messages = [...opening, ...this.#messages, { role: "user", content: asked }];
      const { chameleon } = wishOf({ choice: this.#answerer.value, list: "" }, null);
      const retrieve = byId("chat-look-up", HTMLInputElement).checked ? 1 : null;
      const body = { messages, max_tokens: maxTokens, chameleon: { ...chameleon, sources: true, retrieve } };
      this.#running = running;
      this.#send.textContent = "Stop";
      this.#add("user", asked);
      answer = this.#add("assistant", "");
      this.#input.value = "";
      for await (const chunk of api.chunks<ChatChunk>("/v1/chat/completions", body, running.signal)) {
        for (const choice of chunk.choices) {
          written += choice.delta.content ?? "";
          answer.append(...this.#tokensOf(choice));
          const block = choice.finish_reason && (choice.chameleon as ChameleonBlock);
          if (block) this.#showMade(block);
        }
      }
      status.textContent = "The reply is complete.";
    } catch (error) {
      // The conversation was cleared meanwhile.
      if (isAbort(error) && this.#running !== running) return;
      if (isAbort(error)) status.textContent = "Stopped; what was written is kept.";
      else this.#failure.textContent = failureText(error);
    }
    if (answer && (written !== "" || running.signal.aborted)) {
      this.#messages.push({ role: "user", content: asked }, { role: "assistant", content: written });
    } else if (answer) {
      // Nothing came: the message can be sent again.
      answer.closest("li")?.remove();
      this.#log.lastElementChild?.remove();
      this.#input.value = asked;
    }
    if (this.#running === running) this.#running = null;
    this.#send.textContent = "Send";
  }

  #showMade({ experts, memories, retrieved }: ChameleonBlock): void {
    showExperts(this.#weights, experts, (id) => this.#parts.catalog.nameOf(id));
    this.#legend.replaceChildren(memories ? sourcesLegendRow() : legendRow());
    if (retrieved) showLookedUp(this.#passage, retrieved);
  }

  /** Coloured by where they came from, of an answer that reads the reader's text; otherwise by what the adapters changed. */
  #tokensOf(choice: ChatChunk["choices"][number]): (Node | string)[] {
    const sources = choice.chameleon?.sources;
    if (!sources) return [tokenOf(choice)];
    return sourcedPieces(choice.delta.content ?? "", sources).map((piece) => this.#tokens.make(piece));
  }

  #add(role: "user" | "assistant", text: string): HTMLElement {
    const body = make("p", {}, text);
    const item = make("li", { class: role }, make("span", { class: "who" }, role === "user" ? "You" : "Model"), body);
    this.#log.append(item);
    item.scrollIntoView({ block: "nearest" });
    return body;
  }
}

function tokenOf({ delta, chameleon }: ChatChunk["choices"][number]): Node | string {
  const text = delta.content ?? "";
  const compared = chameleon?.compare?.tokens ?? [];
  if (text === "" || compared.length === 0) return text;
  const difference = compared.reduce((sum, { logprob, base_logprob }) => sum + logprob - base_logprob, 0);
  return make(
    "span",
    { "data-step": stepOf(difference), title: likelier(difference, "the adapters", "the base") },
    text,
  );
}
