/** Encodes conversations by the model's Jinja template, or in Alpaca's style. Only the template, not a message, writes special tokens. */
import type { ChatMessage } from "../contracts/chat.ts";
import { BoundedTemplate } from "./bounded-template.ts";
import { TemplateLimitError, templateLimits } from "./template-limits.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** A message as a template sees it. Results of tool calls have the role "user". */
type Turn = ChatMessage & { role: "system" | "user" | "assistant" };

/**
 * While a template is rendered, two low surrogates stand for each special token: `markStart`, then `firstMark` plus the token's index in
 * `#markedIds`. Messages cannot contain such marks, because messages are made well-formed first.
 */
const markStart = "\udc00";
const firstMark = 0xdc01;

const alpacaOpening =
  "Below is an instruction that describes a task. Write a response that appropriately completes the request.";
const alpacaTitles = { user: "### Instruction:\n", assistant: "### Response:\n" } as const;

export class ChatTemplate {
  readonly #tokenizer: Tokenizer;
  readonly #template: BoundedTemplate | null;
  readonly #markedIds: number[] = [];
  readonly #variables: Record<string, string>;
  /** Texts that end the model's turn, in addition to stop ids. */
  readonly stops: readonly string[];

  /** `source`: null for Alpaca's style. Throws an Error if the source exceeds a limit or is not Jinja. */
  constructor(source: string | null, tokenizer: Tokenizer) {
    const { endOfTextId, eosId, bosId } = tokenizer.roles;
    this.#tokenizer = tokenizer;
    const endOfText = this.#markOf(endOfTextId);
    this.#variables = {
      ...{ bos_token: bosId === null ? "" : this.#markOf(bosId), eos_token: this.#markOf(eosId) },
      ...{ unk_token: endOfText, pad_token: endOfText },
    };
    this.#template = source === null ? null : new BoundedTemplate(this.#marked(source));
    this.stops = source === null ? [alpacaTitles.user.trimEnd()] : [];
  }

  /** Returns at most `maxTokens + 1` ids. Throws an Error if the template refuses the messages or exceeds a limit. */
  encode(messages: readonly ChatMessage[], nowMs: number, maxTokens = Number.POSITIVE_INFINITY): number[] {
    const wellFormed = messages.map(({ role, content }) => ({
      role: role === "tool" ? ("user" as const) : role,
      content: content.toWellFormed(),
    }));
    const characters = wellFormed.reduce((sum, { content }) => sum + content.length, 0);
    const variables = { messages: wellFormed, add_generation_prompt: true, ...this.#variables };
    const text = this.#template?.render(variables, characters, nowMs) ?? alpaca(wellFormed);
    const ids: number[] = [];
    for (let from = 0; ids.length <= maxTokens; ) {
      const mark = this.#nextMark(text, from);
      for (const id of this.#tokenizer.encode(text.slice(from, mark), maxTokens - ids.length)) ids.push(id);
      if (mark === text.length) break;
      if (ids.length <= maxTokens) ids.push(this.#markedIds[text.charCodeAt(mark + 1) - firstMark]);
      from = mark + 2;
    }
    return ids;
  }

  #nextMark(text: string, from: number): number {
    for (let at = text.indexOf(markStart, from); at >= 0; at = text.indexOf(markStart, at + 1)) {
      // A template may cut a surrogate pair of a message. The low surrogate that is left is no mark.
      if (text.charCodeAt(at + 1) - firstMark in this.#markedIds) return at;
    }
    return text.length;
  }

  /** Replaces special tokens by marks, except tokens that answers show. */
  #marked(source: string): string {
    const spelled = this.#tokenizer.specials.filter(({ text, isShown }) => !isShown && source.includes(text));
    const count = new Set([...this.#markedIds, ...spelled.map(({ id }) => id)]).size;
    const { markedTokens } = templateLimits;
    if (count > markedTokens) {
      throw new TemplateLimitError(
        `the chat template writes ${count} special tokens, the limit markedTokens is ${markedTokens}`,
      );
    }
    return spelled
      .toSorted((a, b) => b.text.length - a.text.length)
      .reduce((marked, { id, text }) => marked.replaceAll(text, this.#markOf(id)), source);
  }

  #markOf(id: number): string {
    if (!this.#markedIds.includes(id)) this.#markedIds.push(id);
    return markStart + String.fromCharCode(firstMark + this.#markedIds.indexOf(id));
  }
}

/** A first system message replaces Alpaca's opening. */
function alpaca(messages: readonly Turn[]): string {
  const turns = messages.map(({ role, content }) => (role === "system" ? content : alpacaTitles[role] + content));
  if (messages[0].role !== "system") turns.unshift(alpacaOpening);
  return `${turns.join("\n\n")}\n\n${alpacaTitles.assistant}`;
}
