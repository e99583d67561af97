/** grammars.ts ends this thread if a call hangs or throws. */
import { setPriority } from "node:os";
import { parentPort, workerData } from "node:worker_threads";
import type * as XGrammar from "@mlc-ai/web-xgrammar";
import { byteAlphabet } from "../../shared/tokenizer/pack.ts";
import { LruCache } from "../lru.ts";
import { grammarOf } from "./grammar.ts";
import { GrammarFault } from "./pattern-rules.ts";

export interface ThreadData {
  /** The bytes of all token ids, one after the other. A special token has no bytes. */
  bytes: Uint8Array<SharedArrayBuffer>;
  /** Offset after the bytes of each id, [V]. */
  ends: Uint32Array<SharedArrayBuffer>;
  /** Token ids that are allowed when the text is complete. */
  stopIds: readonly number[];
}

export type ThreadCall =
  | { type: "compile"; form: string }
  /** The first call for a row opens it with the grammar of `form`. */
  | { type: "advance"; row: number; form: string; tokens: number[] }
  | { type: "close"; row: number };

/** `allowed` has a bit for each token id, [⌈V / 32⌉]. `isRefusal`: the form or its tokens are refused. `isOver`: the thread has ended. */
export type ThreadAnswer =
  | { allowed: Uint32Array<ArrayBuffer> | null }
  | { fault: string; isRefusal?: boolean; isOver?: boolean };

/** Bound on forms, in bytes. A compiled grammar is up to 100 times as large as its form. */
const keptFormBytes = 2 ** 18;

/** Matches a part of valid UTF-8: the end of a character, whole characters, or the beginning of a character. */
const utf8 =
  /^[\x80-\xbf]{0,3}(?:[\0-\x7f]|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|\xed[\x80-\x9f][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2})*(?:[\xc2-\xf4]|\xe0[\xa0-\xbf]|\xed[\x80-\x9f]|[\xe1-\xec\xee\xef][\x80-\xbf]|\xf0[\x90-\xbf][\x80-\xbf]?|[\xf1-\xf3][\x80-\xbf]{1,2}|\xf4[\x80-\x8f][\x80-\xbf]?)?$/;
/** Least and greatest second byte, by first byte. XGrammar restricts these second bytes less than UTF-8 does. */
const seconds = new Map([
  [0xe0, [0xa0, 0xbf]],
  [0xed, [0x80, 0x9f]],
  [0xf0, [0x90, 0xbf]],
  [0xf4, [0x80, 0x8f]],
]);

const { bytes, ends, stopIds, isPatient } = workerData as ThreadData & { isPatient: boolean };
const pieces = Array.from(ends, (end, id) => bytes.subarray(id === 0 ? 0 : ends[id - 1], end));
/** U+2028 and U+2029 are never allowed: `.` of a pattern does not match them, and XGrammar cannot exclude just these two. */
const separator = /\xe2\x80[\xa8\xa9]/;
// On Linux only this thread's priority becomes lower. The thread gets about a quarter of a busy core.
if (isPatient && process.platform === "linux") setPriority(0, 5);
/** The package is a browser script, which reads the global `location` and sets the global `xgrammar`. */
const scope = globalThis as unknown as { location: { href: string }; xgrammar: typeof XGrammar };
const compiler = await openCompiler();
const compiled = new LruCache<XGrammar.CompiledGrammar>(keptFormBytes);
/** `last` has at least the last two bytes of the row's text. */
const rows = new Map<number, { matcher: XGrammar.GrammarMatcher; last: Buffer }>();

let done = Promise.resolve();
parentPort!.on("message", ({ id, call }: { id: number; call: ThreadCall }) => {
  done = done.then(async () => {
    const answer = await answerTo(call).catch((thrown: unknown): ThreadAnswer => {
      return thrown instanceof GrammarFault ? { fault: thrown.message, isRefusal: true } : { fault: String(thrown) };
    });
    const allowed = "allowed" in answer ? answer.allowed : null;
    parentPort!.postMessage({ id, answer }, allowed ? [allowed.buffer] : []);
  });
});

parentPort!.postMessage("ready");

async function openCompiler(): Promise<XGrammar.GrammarCompiler> {
  scope.location = { href: import.meta.url };
  await import("@mlc-ai/web-xgrammar");
  const { TokenizerInfo, GrammarCompiler } = scope.xgrammar;
  const alphabet = byteAlphabet();
  const texts = pieces.map((piece) => {
    const text = Buffer.from(piece).toString("latin1");
    return utf8.test(text) && !separator.test(text) ? Array.from(piece, (byte) => alphabet[byte]).join("") : "";
  });
  const tokenizer = await TokenizerInfo.createTokenizerInfo(texts, "byte_level", false, pieces.length, [...stopIds]);
  return GrammarCompiler.createGrammarCompiler(tokenizer, false);
}

async function answerTo(call: ThreadCall): Promise<ThreadAnswer> {
  if (call.type === "close") {
    rows.get(call.row)?.matcher.dispose();
    rows.delete(call.row);
    return { allowed: null };
  }
  if (call.type === "compile") {
    (await compiler.compileGrammar(grammarOf(call.form), "root")).dispose();
    return { allowed: null };
  }
  let row = rows.get(call.row);
  if (!row) {
    const grammar = compiled.get(call.form) ?? (await compiler.compileGrammar(grammarOf(call.form), "root"));
    // A matcher keeps its grammar alive after the cache has dropped the grammar.
    compiled.set(call.form, grammar, call.form.length);
    row = { matcher: await scope.xgrammar.GrammarMatcher.createGrammarMatcher(grammar), last: Buffer.alloc(0) };
    rows.set(call.row, row);
  }
  for (const token of call.tokens) {
    if (!row.matcher.acceptToken(token)) return { fault: `the token ${token} is not of the schema`, isRefusal: true };
    row.last = Buffer.concat([row.last.subarray(-2), pieces[token]]);
  }
  const allowed = Uint32Array.from(await row.matcher.getNextTokenBitmask());
  const last = row.last.subarray(-2);
  const [least, greatest] = seconds.get(last.at(-1) ?? 0) ?? [0, 255];
  const [isFirst, isSecond] = [last.at(-1) === 0xe2, last.at(-2) === 0xe2 && last.at(-1) === 0x80];
  if (greatest < 255 || isFirst || isSecond) {
    pieces.forEach((piece, id) => {
      const isOut = piece[0] < least || piece[0] > greatest;
      // The byte that would complete a separator (U+2028 or U+2029).
      const third = isSecond ? piece[0] : isFirst && piece[0] === 0x80 ? piece[1] : 0;
      if (isOut || third === 0xa8 || third === 0xa9) allowed[id >>> 5] &= ~(1 << (id & 31));
    });
  }
  return { allowed };
}
