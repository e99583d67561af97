/** The known text of a kind: a memory of it, and the passage of it that is nearest to a prompt. Pure. */
import { writeKey } from "../../../memory/keys.ts";
import type { Text } from "../texts.ts";
import { firstTokens, promptTokens } from "./kinds.ts";
import type { TextStates } from "./states.ts";

/** Keys [N, D], and the token after each, [N]. */
export interface Known {
  keys: Int8Array;
  nextIds: Int32Array;
}

/** `states` are those of the excerpts, which are documents by themselves. */
export function memoryOf(excerpts: readonly Text[], { states }: Pick<TextStates, "states">, D: number): Known {
  const count = keysOf(excerpts);
  const keys = new Int8Array(count * D);
  const nextIds = new Int32Array(count);
  let [token, key] = [0, 0];
  for (const { ids } of excerpts) {
    for (let t = 0; t < ids.length; t++, token++) {
      if (t === ids.length - 1) continue;
      writeKey(states.subarray(token * D, (token + 1) * D), keys.subarray(key * D, (key + 1) * D));
      nextIds[key++] = ids[t + 1];
    }
  }
  return { keys, nextIds };
}

/** The memory of the first `tokens` tokens. */
export function firstKeys({ keys, nextIds }: Known, excerpts: readonly Text[], tokens: number): Known {
  const count = keysOf(firstTokens(excerpts, tokens));
  return { keys: keys.subarray(0, count * (keys.length / nextIds.length)), nextIds: nextIds.subarray(0, count) };
}

function keysOf(excerpts: readonly Text[]): number {
  return excerpts.reduce((sum, { ids }) => sum + ids.length - 1, 0);
}

/** Each text after the excerpt whose mean hidden state is nearest to that of the text's prompt. `D` hidden. */
export function afterPassages(
  texts: readonly Text[],
  textHidden: Float32Array,
  excerpts: readonly Text[],
  excerptHidden: Float32Array,
  D: number,
): Text[] {
  let at = 0;
  const passages = excerpts.map(({ ids }) => {
    const mean = meanOf(excerptHidden.subarray(at, at + ids.length * D), D);
    at += ids.length * D;
    return mean;
  });
  at = 0;
  return texts.map(({ document, ids }) => {
    const own = meanOf(textHidden.subarray(at, at + promptTokens * D), D);
    at += ids.length * D;
    const cosines = passages.map((passage) => passage.reduce((sum, x, d) => sum + x * own[d], 0));
    return { document, ids: [...excerpts[cosines.indexOf(Math.max(...cosines))].ids, ...ids] };
  });
}

/** The mean of the rows, of length 1, [D]. */
function meanOf(rows: Float32Array, D: number): Float64Array {
  const mean = new Float64Array(D);
  for (let i = 0; i < rows.length; i++) mean[i % D] += rows[i];
  const length = Math.hypot(...mean);
  return mean.map((x) => x / length);
}
