/**
 * From a conversation to token ids: by the model's own Jinja chat template, or in Alpaca's style where it has none. Only the template
 * itself may write special tokens: the content of a message is text, whatever it spells.
 */
import type { ChatMessage } from "../contracts/chat.ts";
import { BoundedTemplate } from "./bounded-template.ts";
import type { Tokenizer } from "./tokenizer.ts";

/** Stands for the end-of-text token in a rendered text. Messages are made well-formed first, so they cannot contain it. */
const endOfTextMark = "\udc00\udc00";

const alpacaOpening =
  "Below is an instruction that describes a task. Write a response that appropriately completes the request.";
const alpacaTitles = { user: "### Instruction:\n", assistant: "### Response:\n" } as const;

export class ChatTemplate {
  readonly #tokenizer: Tokenizer;
  readonly #template: BoundedTemplate | null;
  /** Text at which the model's turn is over, besides the end of text: the next turn's title. */
  readonly stops: readonly string[];

  /** `source`: the model's own template; null for Alpaca's style. Throws an Error where it is too long or not Jinja. */
  constructor(source: string | null, tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer;
    const spelling = tokenizer.decode([tokenizer.endOfTextId]);
    this.#template = source === null ? null : new BoundedTemplate(source.replaceAll(spelling, endOfTextMark));
    this.stops = source === null ? [alpacaTitles.user.trimEnd()] : [];
  }

  /**
   * Token ids of the conversation, up to where the assistant speaks; of one that has more than `maxTokens`, `maxTokens + 1` of them.
   * Throws an Error where the template refuses it, or would exceed a limit of template-limits.ts.
   * `nowMs` is for templates that ask for the date.
   */
  encode(messages: readonly ChatMessage[], nowMs: number, maxTokens = Number.POSITIVE_INFINITY): number[] {
    const wellFormed = messages.map(({ role, content }) => ({ role, content: content.toWellFormed() }));
    const text = this.#template ? rendering(this.#template, wellFormed, nowMs) : alpaca(wellFormed);
    const ids: number[] = [];
    for (const [i, part] of text.split(endOfTextMark).entries()) {
      if (i > 0) ids.push(this.#tokenizer.endOfTextId);
      if (ids.length > maxTokens) break;
      for (const id of this.#tokenizer.encode(part, maxTokens - ids.length)) ids.push(id);
    }
    return ids;
  }
}

function rendering(template: BoundedTemplate, messages: ChatMessage[], nowMs: number): string {
  const variables = {
    messages,
    add_generation_prompt: true,
    bos_token: endOfTextMark,
    eos_token: endOfTextMark,
    unk_token: endOfTextMark,
    pad_token: endOfTextMark,
  };
  const characters = messages.reduce((sum, { content }) => sum + content.length, 0);
  return template.render(variables, characters, nowMs);
}

/** A system message takes the place of the opening, or stands between the turns. */
function alpaca(messages: readonly ChatMessage[]): string {
  const turns = messages.map(({ role, content }) => (role === "system" ? content : alpacaTitles[role] + content));
  if (messages[0].role !== "system") turns.unshift(alpacaOpening);
  return `${turns.join("\n\n")}\n\n${alpacaTitles.assistant}`;
}
