/** Scores texts under the base, the static adapter, the nearest centroid's adapter, and the mixture. */
import { positionsOfEvidence } from "../../../shared/math/evidence.ts";
import { type MemoryRule, memoryProbabilities, memoryWeight, mixedBeforeBrakes } from "../../../shared/math/memory.ts";
import type { ServedBank } from "../../training/bank/served-bank.ts";
import { type Method, methods } from "./data.ts";
import type { OpenArtifacts } from "./open-artifacts.ts";
import { expertsOf, type Mixed, mixed, type OwnAdapter, ownChange } from "./plans.ts";
import type { Found, Reader } from "./reader.ts";
import { scoredTokens, type Text, withPrompt } from "./texts.ts";

/** Log-likelihood of each scored token, in nats, [texts][scoredTokens], by method. */
export type Scores = Record<Method, Float32Array[]>;

/** Texts of one pass of the trunk. */
const textsPerPass = 8;

/** Scores the texts after prompts of so many tokens. */
export async function scoresOf(
  { trunk, reader, served }: Pick<OpenArtifacts, "trunk" | "reader" | "served">,
  texts: readonly Text[],
  promptTokens: number,
): Promise<Scores> {
  const scores: Scores = { base: [], static: [], nearest: [], mixture: [] };
  const T = promptTokens + scoredTokens;
  const positions = Array.from({ length: scoredTokens }, (_, i) => promptTokens - 1 + i);
  for (let from = 0; from < texts.length; from += textsPerPass) {
    const pass = texts.slice(from, from + textsPerPass).map((text) => withPrompt(text, promptTokens));
    const hidden = await trunk.hidden(Int32Array.from(pass.flat()), pass.length, T); // [S, T, D]
    const size = hidden.length / pass.length;
    for (const [s, ids] of pass.entries()) {
      const own = hidden.subarray(s * size, (s + 1) * size);
      const gates = await gatesOf(reader, served, ids, own, promptTokens);
      const scored = await logprobsUnder(
        methods.map((method) => ({ gates: gates[method], own: 0 })),
        null,
        reader,
        ids,
        own,
        positions,
      );
      for (const [m, method] of methods.entries()) scores[method].push(scored[m]);
    }
  }
  return scores;
}

/** The gates of each method, [Q], as the prompt of a text weighs them. `hidden` [T, D]. */
export async function gatesOf(
  reader: Pick<Reader, "read">,
  served: ServedBank,
  ids: readonly number[],
  hidden: Float32Array,
  promptTokens: number,
): Promise<Record<Method, Float32Array>> {
  const { staticGates } = served.adapters.network;
  const { nearest, gates } = await mixtureOf(reader, served, ids, hidden, promptTokens);
  return { base: new Float32Array(staticGates.length), static: staticGates, nearest, mixture: gates };
}

/** A memory of the tenant's, at the positions of a prompt that are evidence. */
export interface EvidentMemory {
  found: Found;
  rule: MemoryRule;
}

/** What `auto` answers the prompt of a text with, an adapter of the tenant's own among the experts. `hidden` [T, D]. */
export async function mixtureOf(
  reader: Pick<Reader, "read">,
  served: ServedBank,
  ids: readonly number[],
  hidden: Float32Array,
  promptTokens: number,
  own: OwnAdapter | null = null,
  memory: EvidentMemory | null = null,
): Promise<Mixed & { nearest: Float32Array }> {
  const experts = expertsOf(ids.slice(0, promptTokens), served, own);
  const evidence = positionsOfEvidence(promptTokens);
  const logprobs = await logprobsUnder(experts.all, own, reader, ids, hidden, evidence, memory);
  const ofTokens = evidence.map((_, n) => logprobs.map((ofExpert) => ofExpert[n]));
  return { ...mixed(experts, ofTokens), nearest: experts.nearest };
}

/** Log-likelihoods of the tokens after some positions of a text, [experts][positions]. `hidden` [T, D]. */
async function logprobsUnder(
  experts: readonly Mixed[],
  own: OwnAdapter | null,
  reader: Pick<Reader, "read">,
  ids: readonly number[],
  hidden: Float32Array,
  positions: readonly number[],
  memory: EvidentMemory | null = null,
): Promise<Float32Array[]> {
  const D = hidden.length / ids.length;
  const [N, Q] = [positions.length, experts[0].gates.length];
  const states = new Float32Array(experts.length * N * D);
  const ofRows = new Float32Array(experts.length * N * Q);
  const changes = new Float32Array(states.length);
  for (let row = 0; row < experts.length * N; row++) {
    const t = positions[row % N];
    const expert = experts[Math.floor(row / N)];
    const state = hidden.subarray(t * D, (t + 1) * D);
    states.set(state, row * D);
    ofRows.set(expert.gates, row * Q);
    changes.set(ownChange(expert.own, own, state), row * D);
  }
  const targets = Int32Array.from({ length: experts.length * N }, (_, row) => ids[positions[row % N] + 1]);
  const reading = await reader.read(states, ofRows, targets, {}, changes);
  const logprobs = Float32Array.from(reading.logprobs, (logprob, row) => {
    if (!memory) return logprob;
    const K = memory.found.nextIds.length / N;
    const at = (row % N) * K;
    const cosines = memory.found.cosines.subarray(at, at + K);
    const probabilities = memoryProbabilities(
      { cosines, nextIds: memory.found.nextIds.subarray(at, at + K) },
      memory.rule,
    );
    const match = {
      cosine: cosines[0],
      memory: Math.max(...probabilities.values()),
      model: Math.exp(reading.topLogprobs[row]),
    };
    const says = { weight: memoryWeight(memory.rule, match), probability: probabilities.get(targets[row]) ?? 0 };
    return Math.log(mixedBeforeBrakes(memory.rule, Math.exp(logprob), [says]));
  });
  return experts.map((_, e) => logprobs.slice(e * N, (e + 1) * N));
}
