/** Finds function calls in text that arrives in parts. A grammar ensures that every call has the form of `callFormat`. Pure. */
import { callFormat, hasAnyText } from "../../shared/contracts/tools.ts";
import { longestBeginning } from "../../shared/tokenizer/text-stream.ts";

export interface CallPart {
  index: number;
  /** Function name in the call's first part; null in later parts. */
  name: string | null;
  arguments: string;
  isWhole: boolean;
}

export class CallReader {
  /** True if text may precede the first call. Otherwise the answer is either text or calls. */
  readonly #isFree: boolean;
  /** Text held back because it may begin a call, or end a call's arguments. */
  #rest = "";
  #within: "text" | "name" | "arguments" = "text";
  #count = 0;
  #hasText = false;

  constructor(form: string) {
    this.#isFree = hasAnyText(form);
  }

  get endsInCall(): boolean {
    return this.#count > 0 && this.#within === "text";
  }

  /** Returns the text before calls and at most one part of each call. `isLast`: no text follows. */
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

  /** Reads to the end of the current text, name or arguments. Returns false if that end has not arrived yet. */
  #step(calls: CallPart[], tell: (text: string) => void, isLast: boolean): boolean {
    const { start, beforeName, beforeArguments, end } = callFormat;
    if (this.#within === "text") {
      const found = this.#rest.indexOf(start);
      const at = this.#isFree || this.#count > 0 || (found === 0 && !this.#hasText) ? found : -1;
      const before = this.#take(at >= 0 ? at : this.#rest.length - longestBeginning(this.#rest, [start]));
      // White space between calls is dropped.
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
      // The arguments are on one line. The line's last character closes the object around the arguments.
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

  #take(length: number): string {
    const taken = this.#rest.slice(0, Math.max(0, length));
    this.#rest = this.#rest.slice(taken.length);
    return taken;
  }
}
