/** Chat: a conversation through the model's own template, answered as the page's sampling says. */
import type { ChameleonBlock, ChatChunk } from "../../shared/contracts/responses.ts";
import { type Api, CallFailure, failureText, isAbort } from "./api.ts";
import { make } from "./elements.ts";
import { legendRow, showExperts } from "./experts.ts";
import { type Answerer, type Sampling, wishOf } from "./request.ts";
import { likelier, stepOf } from "./words.ts";

interface Message {
  role: "system" | "user" | "assistant";
  content: string;
}

export interface ChatParts {
  api: Api;
  form: HTMLFormElement;
  input: HTMLTextAreaElement;
  system: HTMLInputElement;
  send: HTMLButtonElement;
  clear: HTMLButtonElement;
  log: HTMLElement;
  weights: HTMLElement;
  failure: HTMLElement;
  status: HTMLElement;
  legend: HTMLElement;
  answerer(): Answerer;
  sampling(): Sampling;
  nameOf(id: string): string;
}

export class Chat {
  readonly #parts: ChatParts;
  readonly #messages: Message[] = [];
  #running: AbortController | null = null;

  constructor(parts: ChatParts) {
    this.#parts = parts;
    const { form, input, clear } = parts;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#running) this.#running.abort();
      else void this.#send();
    });
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      if (!this.#running) void this.#send();
    });
    clear.addEventListener("click", () => this.#clear());
  }

  #clear(): void {
    const running = this.#running;
    this.#running = null;
    running?.abort();
    this.#parts.send.textContent = "Send";
    this.#messages.length = 0;
    for (const element of [this.#parts.log, this.#parts.weights, this.#parts.legend, this.#parts.failure])
      element.replaceChildren();
  }

  async #send(): Promise<void> {
    const { api, input, send, failure, status, system, answerer, sampling } = this.#parts;
    const running = new AbortController();
    failure.textContent = "";
    const asked = input.value;
    let answer: HTMLElement | null = null;
    let written = "";
    try {
      if (asked.trim() === "") throw new CallFailure("Write a message first.");
      const { fields, evidenceTokens } = sampling();
      const opening: Message[] = system.value.trim() === "" ? [] : [{ role: "system", content: system.value }];
      const messages = [...opening, ...this.#messages, { role: "user", content: asked }];
      const body = { messages, ...fields, n: 1, ...wishOf(answerer(), evidenceTokens) };
      this.#running = running;
      send.textContent = "Stop";
      this.#add("user", asked);
      answer = this.#add("assistant", "");
      input.value = "";
      for await (const chunk of api.chunks<ChatChunk>("/v1/chat/completions", body, running.signal)) {
        for (const choice of chunk.choices) {
          written += choice.delta.content ?? "";
          answer.append(tokenOf(choice));
          const block = choice.finish_reason && (choice.chameleon as ChameleonBlock);
          if (block) this.#showMade(block);
        }
      }
      status.textContent = "The reply is complete.";
    } catch (error) {
      // The conversation was cleared meanwhile.
      if (isAbort(error) && this.#running !== running) return;
      if (isAbort(error)) status.textContent = "Stopped; what was written is kept.";
      else failure.textContent = failureText(error);
    }
    if (answer && (written !== "" || running.signal.aborted)) {
      this.#messages.push({ role: "user", content: asked }, { role: "assistant", content: written });
    } else if (answer) {
      // Nothing came: the message can be sent again.
      answer.closest("li")?.remove();
      this.#parts.log.lastElementChild?.remove();
      input.value = asked;
    }
    if (this.#running === running) this.#running = null;
    send.textContent = "Send";
  }

  #showMade({ experts }: ChameleonBlock): void {
    const { weights, legend, nameOf } = this.#parts;
    showExperts(weights, experts, nameOf);
    legend.replaceChildren(legendRow());
  }

  #add(role: "user" | "assistant", text: string): HTMLElement {
    const body = make("p", {}, text);
    const item = make("li", { class: role }, make("span", { class: "who" }, role === "user" ? "You" : "Model"), body);
    this.#parts.log.append(item);
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
