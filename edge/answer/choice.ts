/** Turns a sequence's frames into parts of a choice. A stream sends each part; a non-streamed answer joins them. Pure. */
import type { DoneFrame, Frame, PromptFrame, TokenFrame, TokenSources } from "../../shared/contracts/inference.ts";
import type { ChatToken, ComparedToken, PromptLogprobs, SourcedToken } from "../../shared/contracts/responses.ts";
import { samplingWith } from "../../shared/contracts/sampling.ts";
import { hasCalls } from "../../shared/contracts/tools.ts";
import { ServiceError } from "../../shared/errors.ts";
import { TextStream } from "../../shared/tokenizer/text-stream.ts";
import type { Tokenizer } from "../../shared/tokenizer/tokenizer.ts";
import type { PlannedChoice } from "../plan/plan.ts";
import { type CallPart, CallReader } from "./call-reader.ts";

export interface ChoiceOptions {
  echo: boolean;
  /** Number of alternatives per token; null: no logprobs. */
  logprobs: number | null;
  /** Number of alternatives per prompt token; null: no logprobs of the prompt. */
  promptLogprobs: number | null;
  compare: boolean;
  sources: boolean;
  withBlock: boolean;
}

export interface ChoicePart {
  planned: PlannedChoice;
  text: string;
  calls: CallPart[];
  logprobs: ReportedToken[] | null;
  /** Only in the part made from the `prompt` frame, and only if requested; null otherwise. */
  promptLogprobs: PromptLogprobs | null;
  compared: ComparedToken[];
  sourced: SourcedToken[];
  /** The sequence's last frame, only in the choice's last part; null otherwise. */
  done: DoneFrame | null;
  finishReason: "stop" | "length" | "tool_calls" | null;
}

export interface ReportedToken {
  piece: Uint8Array;
  /** Start of the token in the text, in Unicode code points. */
  offset: number;
  /** null for the first token of an echoed prompt, which has no context. */
  logprob: number | null;
  top: { piece: Uint8Array; logprob: number }[];
  baseLogprob: number | null;
  sources: Omit<SourcedToken, "token"> | null;
}

/** `alternatives`: pairs of a token id and its log-probability. */
interface Scores {
  logprob?: number | null | undefined;
  baseLogprob?: number | null | undefined;
  alternatives?: readonly [number, number][] | undefined;
}

interface EchoedPrompt {
  text: string;
  /** Length of `text` in Unicode code points. */
  characters: number;
}

const notEchoed: EchoedPrompt = { text: "", characters: 0 };

/** Prompt texts by prompt index. Each prompt is decoded once for all its choices. */
export function echoedPrompts(choices: readonly PlannedChoice[], tokenizer: Tokenizer): Map<number, EchoedPrompt> {
  const echoed = new Map<number, EchoedPrompt>();
  for (const { prompt, sequence } of choices) {
    if (echoed.has(prompt)) continue;
    const text = tokenizer.decodeText(sequence.promptIds);
    echoed.set(prompt, { text, characters: [...text].length });
  }
  return echoed;
}

export class Choice {
  readonly planned: PlannedChoice;
  readonly #tokenizer: Tokenizer;
  readonly #options: ChoiceOptions;
  readonly #text: TextStream;
  readonly #calls: CallReader | null;
  readonly #offsetOf: OffsetOf | null;
  #prompt: string;
  readonly #promptCharacters: number;
  /** Tokens held back because their text may begin a stop string. */
  #held: ReportedToken[] = [];
  #stopped = false;

  constructor(planned: PlannedChoice, tokenizer: Tokenizer, options: ChoiceOptions, echoed: EchoedPrompt = notEchoed) {
    const { stop, min_tokens, text_form } = samplingWith(planned.sequence.sampling);
    this.planned = planned;
    this.#tokenizer = tokenizer;
    this.#options = options;
    this.#text = new TextStream((id) => tokenizer.textPieceOf(id), stop, min_tokens);
    this.#calls = text_form !== null && hasCalls(text_form) ? new CallReader(text_form) : null;
    this.#prompt = echoed.text;
    this.#promptCharacters = echoed.characters;
    const isReported = options.logprobs !== null || options.compare || this.#isSourced;
    this.#offsetOf = isReported ? offsetCounter(this.#promptCharacters) : null;
  }

  push(frame: Frame): ChoicePart {
    switch (frame.type) {
      case "prompt":
        return {
          ...this.#part("", this.#options.echo ? this.#promptTokens(frame) : [], null),
          promptLogprobs: this.#promptLogprobs(frame),
        };
      case "token":
        return this.#part(this.#append(frame), this.#emitted(), null);
      case "done": {
        const rest = this.#text.end();
        return this.#part(rest, this.#stopped ? this.#emitted() : this.#held.splice(0), frame);
      }
      case "error":
        throw new ServiceError(frame.kind, frame.message, { retryAfterSeconds: frame.retryAfterSeconds ?? undefined });
    }
  }

  get #isSourced(): boolean {
    return this.#options.sources && this.planned.assignment.memories.length > 0;
  }

  #append(frame: TokenFrame): string {
    if (this.#stopped) return "";
    const { text, stopped } = this.#text.push(frame.tokenId);
    this.#stopped = stopped;
    if (!this.#offsetOf) return text;
    const sources = frame.sources ? this.#sourcesOf(frame.sources) : null;
    this.#held.push({ ...this.#reported(frame.tokenId, this.#offsetOf, frame), sources });
    return text;
  }

  #emitted(): ReportedToken[] {
    const emitted = this.#promptCharacters + this.#text.emittedCharacters;
    const certain = this.#held.findIndex(({ offset }) => offset >= emitted);
    return this.#held.splice(0, certain < 0 ? this.#held.length : certain);
  }

  #promptTokens(frame: PromptFrame): ReportedToken[] {
    const offsetOf = offsetCounter(0);
    return this.planned.sequence.promptIds.map((id, i) => {
      const baseLogprob = frame.baseLogprobs?.[i];
      const scores = { logprob: frame.logprobs[i], baseLogprob, alternatives: frame.alternatives[i] };
      return { ...this.#reported(id, offsetOf, scores), sources: null };
    });
  }

  #reported(id: number, offsetOf: OffsetOf, { logprob = null, baseLogprob, alternatives = [] }: Scores) {
    const top = alternatives.slice(0, this.#options.logprobs ?? 0);
    return {
      piece: this.#tokenizer.pieceOf(id),
      offset: offsetOf(this.#tokenizer.textPieceOf(id)),
      logprob,
      top: top.map(([one, its]) => ({ piece: this.#tokenizer.pieceOf(one), logprob: its })),
      // Without an adapter, the token's logprob is the base model's.
      baseLogprob: baseLogprob ?? logprob,
    };
  }

  #promptLogprobs({ logprobs, alternatives }: PromptFrame): PromptLogprobs | null {
    const { promptLogprobs } = this.#options;
    if (promptLogprobs === null) return null;
    return this.planned.sequence.promptIds.map((id, i) => {
      const own = logprobs[i] ?? null;
      if (own === null) return null;
      const top = (alternatives[i] ?? []).slice(0, promptLogprobs);
      const all = top.some(([one]) => one === id) ? top : [...top, [id, own] as const];
      const told = all.map(([one, logprob], r) => {
        const decoded_token = tokenText(this.#tokenizer.pieceOf(one));
        return [one, { logprob, rank: r < top.length ? r + 1 : null, decoded_token }];
      });
      return Object.fromEntries(told);
    });
  }

  #sourcesOf({ share, passages }: TokenSources): ReportedToken["sources"] {
    const { memories } = this.planned.assignment;
    const named = passages.map(({ memory, ...passage }) => ({ adapter: memories[memory].id, ...passage }));
    return { share, passages: named };
  }

  #part(text: string, tokens: ReportedToken[], done: DoneFrame | null): ChoicePart {
    const prompt = this.#prompt;
    this.#prompt = "";
    const read = this.#calls?.push(text, done !== null) ?? { text: prompt + text, calls: [] };
    return {
      planned: this.planned,
      ...read,
      logprobs: this.#options.logprobs === null ? null : tokens,
      promptLogprobs: null,
      compared: this.#options.compare ? comparedOf(tokens) : [],
      sourced: this.#isSourced ? sourcedOf(tokens) : [],
      done,
      finishReason:
        done?.finishReason === "stop" && this.#calls?.endsInCall ? "tool_calls" : (done?.finishReason ?? null),
    };
  }
}

function comparedOf(tokens: readonly ReportedToken[]): ComparedToken[] {
  return tokens.flatMap(({ piece, logprob, baseLogprob }) =>
    logprob === null || baseLogprob === null ? [] : [{ token: tokenText(piece), logprob, base_logprob: baseLogprob }],
  );
}

function sourcedOf(tokens: readonly ReportedToken[]): SourcedToken[] {
  return tokens.flatMap(({ piece, sources }) => (sources ? [{ token: tokenText(piece), ...sources }] : []));
}

const wholeCharacters = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** A token's text. Bytes that are not whole characters are escaped as in OpenAI's API, for example `bytes:\xe2\x80`. */
export function tokenText(piece: Uint8Array): string {
  try {
    return wholeCharacters.decode(piece);
  } catch {
    return `bytes:${Array.from(piece, (byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("")}`;
  }
}

export function chatTokensOf(tokens: readonly ReportedToken[]): ChatToken[] {
  return tokens.map(({ piece, logprob, top }) => ({
    ...alternativeOf(piece, logprob ?? 0),
    top_logprobs: top.map((one) => alternativeOf(one.piece, one.logprob)),
  }));
}

function alternativeOf(piece: Uint8Array, logprob: number) {
  return { token: tokenText(piece), logprob, bytes: [...piece] };
}

/** Returns a token's offset. Must be called for every token in order. */
type OffsetOf = (piece: Uint8Array) => number;

/** Token offsets in Unicode code points, as OpenAI counts. A token that continues a character has the character's offset. */
function offsetCounter(start: number): OffsetOf {
  const decoder = new TextDecoder("utf-8", { fatal: false, ignoreBOM: true });
  let characters = start;
  return (piece) => {
    const offset = characters;
    for (const _ of decoder.decode(piece, { stream: true })) characters++;
    return offset;
  };
}
