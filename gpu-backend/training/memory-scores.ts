/** Log-probabilities of text under a model with a memory. Shapes: N keys, P positions, D hidden. */
import { joinArrays } from "../../shared/bytes.ts";
import { positionsOfEvidence } from "../../shared/math/evidence.ts";
import {
  brakePositions,
  type MemoryRule,
  memoryProbabilities,
  memoryShares,
  memoryWeight,
  type Neighbours,
  weighBrakes,
} from "../../shared/math/memory.ts";
import { writeKey } from "../memory/keys.ts";
import { type MemorySearch, openMemorySearch } from "../memory/search.ts";
import type { Reader, Reading } from "./bank/reader.ts";
import type { Stated } from "./hidden-states.ts";

export interface Known {
  keys: Int8Array; // [N, D]
  nextIds: Int32Array; // [N], the token after each key
}

export function memoryOf(excerpts: readonly { ids: ArrayLike<number>; states: Float32Array }[], D: number): Known {
  const nextIds = Int32Array.from(excerpts.flatMap(({ ids }) => Array.from(ids).slice(1)));
  const keys = new Int8Array(nextIds.length * D);
  let at = 0;
  for (const { ids, states } of excerpts) {
    for (let t = 0; t < ids.length - 1; t++, at += D) {
      writeKey(states.subarray(t * D, (t + 1) * D), keys.subarray(at, at + D));
    }
  }
  return { keys, nextIds };
}

export function openSearch(known: Known, options: Parameters<typeof openMemorySearch>[1]) {
  return openMemorySearch({ ...known, starts: new Int32Array(0), ends: new Int32Array(0), documents: [] }, options);
}

/** Positions in the prompt whose next tokens weigh the brakes, `evidence` in number, then the position before each scored token. */
export function readPositionsOf(promptTokens: number, scoredTokens: number) {
  const evidence = positionsOfEvidence(promptTokens, undefined, brakePositions);
  const scored = Array.from({ length: scoredTokens }, (_, i) => promptTokens - 1 + i);
  return { evidence: evidence.length, positions: [...evidence, ...scored] };
}

export type Observation = ReturnType<typeof observationAt>;

/** `found` has the memory's nearest keys. `ofMemory` and `ofModel` are probabilities of `target`, the text's own next token. */
export function observationAt(
  reading: Pick<Reading, "logprobs" | "topLogprobs">,
  at: number,
  found: Neighbours,
  target: number,
  rule: MemoryRule,
) {
  const probabilities = memoryProbabilities(found, rule);
  return {
    cosine: found.cosines[0],
    memory: Math.max(...probabilities.values()),
    model: Math.exp(reading.topLogprobs[at]),
    ofMemory: probabilities.get(target) ?? 0,
    ofModel: Math.exp(reading.logprobs[at]),
  };
}

/** `seen` at the positions of `readPositionsOf`. Returns the memory's share and the logprob of each scored token. */
export function mixedWithMemory(seen: readonly Observation[], evidence: number, rule: MemoryRule) {
  const weights = seen.map((observation) => memoryWeight(rule, observation));
  const ofPrompt = seen.slice(0, evidence);
  const chosen = weighBrakes(
    rule,
    ofPrompt.map(({ ofModel }) => ofModel),
    [ofPrompt.map(({ ofMemory }, i) => ({ weight: weights[i], probability: ofMemory }))],
  );
  return seen.slice(evidence).map(({ ofModel, ofMemory }, i) => {
    const [share] = memoryShares(rule, [weights[evidence + i]], chosen);
    return { share, logprob: Math.log(ofModel + share * (ofMemory - ofModel)) };
  });
}

interface MemoryScoring {
  reader: Reader;
  gates: Float32Array; // [Q]
  search: MemorySearch;
  rule: MemoryRule;
}

/** Logprobs of the tokens after the prompt, without the memory (`plain`) and with it (`mixed`). */
export async function scoreWithMemory(
  { ids, states, hidden }: Stated<{ ids: ArrayLike<number> }>,
  promptTokens: number,
  { reader, gates, search, rule }: MemoryScoring,
) {
  const { evidence, positions } = readPositionsOf(promptTokens, ids.length - promptTokens);
  const D = states.length / ids.length;
  const rowsOf = (of: Float32Array) => positions.map((t) => of.subarray(t * D, (t + 1) * D));
  const targets = Int32Array.from(positions, (t) => ids[t + 1]);
  const found = await search.nearest(rowsOf(states));
  const reading = await reader.read(joinArrays(Float32Array, rowsOf(hidden)), gates, targets);
  const seen = found.map((own, at) => observationAt(reading, at, own, targets[at], rule));
  const mixed = Float32Array.from(mixedWithMemory(seen, evidence, rule), ({ logprob }) => logprob);
  return { plain: reading.logprobs.subarray(evidence), mixed };
}
