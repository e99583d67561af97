/**
 * Reads calls of functions from a text that may have some (shared/contracts/tools.ts), as it arrives. The text is held to the form, so
 * whatever follows the beginning of a call is one; it may be cut anywhere. Pure.
 */
import { callFormat, hasAnyText } from "../../shared/contracts/tools.ts";
import { longestBeginning } from "../../shared/tokenizer/text-stream.ts";

/** What a part of the text adds to a call. */
export interface CallPart {
  index: number;
  /** With the call's first part. */
  name: string | null;
  /** More of the JSON. */
  arguments: string;
  /** It is whole. */
  isWhole: boolean;
}

export class CallReader {
  /** Text may stand before the first call; else a text that does not begin with a call has none. */
  readonly #isFree: boolean;
  /** What is not told yet, as it may be the beginning of a call, or of what follows its arguments. */
  #rest = "";
  #within: "text" | "name" | "arguments" = "text";
  #count = 0;
  #hasText = false;

  constructor(form: string) {
    this.#isFree = hasAnyText(form);
  }

  /** The text ended, or would end here, with a whole call. */
  get endsInCall(): boolean {
    return this.#count > 0 && this.#within === "text";
  }

  /** Text before calls, and parts of calls, at most one of each; `isLast`: no more text comes. */
  push(text: string, isLast: boolean): { text: string; calls: CallPart[] } {
    this.#rest += text;
    const calls: CallPart[] = [];
    let told = "";
    const tell = (before: string) => {
      told += before;
      if (before !== "") this.#hasText = true;
    };
    while (this.#step(calls, tell, isLast));
    if (isLast && this.#count === 0 && this.#within === "text") tell(this.#rest);
    return { text: told, calls };
  }

  /** Reads on to the next place where the kind of text changes; false where it has not come yet. */
  #step(calls: CallPart[], tell: (text: string) => void, isLast: boolean): boolean {
    const { start, beforeName, beforeArguments, end } = callFormat;
    if (this.#within === "text") {
      const found = this.#rest.indexOf(start);
      const at = this.#isFree || this.#count > 0 || (found === 0 && !this.#hasText) ? found : -1;
      const before = this.#take(at >= 0 ? at : this.#rest.length - longestBeginning(this.#rest, [start]));
      // Between calls there is white space.
      if (this.#count === 0) tell(before);
      if (at < 0) return false;
      this.#take(start.length);
      this.#within = "name";
    } else if (this.#within === "name") {
      const at = this.#rest.indexOf(beforeArguments);
      if (at < 0) return false;
      const name = this.#take(at).slice(beforeName.length);
      this.#take(beforeArguments.length);
      calls.push({ index: this.#count++, name, arguments: "", isWhole: false });
      this.#within = "arguments";
    } else {
      // The arguments are in one line, which ends in the brace of the call's own object.
      const at = this.#rest.indexOf("\n");
      const part = this.#take((at >= 0 ? at : this.#rest.length) - 1);
      if (at < 0 && part === "" && !isLast) return false;
      const index = this.#count - 1;
      if (calls.at(-1)?.index !== index) calls.push({ index, name: null, arguments: "", isWhole: false });
      const last = calls.at(-1)!;
      last.arguments += part;
      if (at < 0) return false;
      last.isWhole = true;
      this.#take(end.length);
      this.#within = "text";
    }
    return true;
  }

  /** Removes and returns the beginning of what is left. */
  #take(length: number): string {
    const taken = this.#rest.slice(0, Math.max(0, length));
    this.#rest = this.#rest.slice(taken.length);
    return taken;
  }
}
