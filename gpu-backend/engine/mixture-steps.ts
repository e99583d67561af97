/** Runs of the head alone, over states that the prefill of a mixture's prompt computed. */
import type { ServiceError } from "../../shared/errors.ts";
import { positionsOfEvidence, weigh } from "../../shared/math/evidence.ts";
import { type MemoryRule, mixedBeforeBrakes } from "../../shared/math/memory.ts";
import type { Runner as KvRunner, Pass, PassOutput } from "../kv/runner.ts";
import { type Head, HeadRows } from "./head-rows.ts";
import { greatestOf } from "./memory-mixing.ts";
import { memoriesAt, positionsOfBrakes, type Searched } from "./memory-steps.ts";
import { composeHead, scorePrompt } from "./pass.ts";
import { notFinite } from "./refusals.ts";
import { logprobOfTarget } from "./sampler.ts";
import type { Sequence } from "./sequence.ts";

/** Bounded, because each output row is as wide as the vocabulary. */
const runPositions = 32;

type Runner = Pick<KvRunner, "run" | "gates" | "kv">;

/**
 * Weighs the experts of a mixture by the logprobs of the prompt's own tokens. In a mixture with an own adapter, memories are mixed into
 * all experts' predictions, because the adapter may have learnt the memories' text. Returns an error for evidence that is not finite.
 */
export async function weighMixture(
  sequence: Sequence,
  runner: Runner,
  memoryRule: MemoryRule | null,
  searched: Searched,
): Promise<ServiceError | null> {
  const { base, adapters, evidence: rule } = sequence.request.mixture!;
  const { tokens, spans } = sequence.evidenceTokens;
  const positions = positionsOfEvidence(tokens, spans);
  const experts = [null, ...sequence.adapters.map(({ adapter }) => adapter)];
  const results = await scorePrompt(sequence, positions, experts, runner);
  const hasOwn = experts.some((expert) => expert && expert.changes.length > 0);
  const says =
    memoryRule && hasOwn && sequence.memories.length > 0
      ? await memoriesAt(sequence, [...new Set([...positions, ...positionsOfBrakes(sequence)])], {
          ...{ kv: runner.kv, rule: memoryRule, searched },
        })
      : null;
  const logprobs = results.map((ofExperts, x) =>
    ofExperts.map((result) => {
      const logprob = logprobOfTarget(result);
      return says ? Math.log(mixedBeforeBrakes(memoryRule!, Math.exp(logprob), says(x, greatestOf(result)))) : logprob;
    }),
  );
  const priors = [base, ...adapters.map(({ weight }) => weight)];
  const { weights, evidence } = weigh(priors, rule!, logprobs);
  if (!Number.isFinite(evidence.nats)) return notFinite(`the evidence of the prompt is ${evidence.nats} nats`);
  sequence.weighed(weights, evidence);
  return null;
}

/** Scores the prompt tokens after the evidence, if scores are wanted, and samples the first token. */
export async function* headsAfterEvidence(
  sequence: Sequence,
  runner: Runner,
): AsyncGenerator<{ heads: Head[]; states: Pass["states"]; output: PassOutput }> {
  const { ids, promptTokens, scoresPrompt } = sequence;
  const first = scoresPrompt ? Math.max(0, sequence.evidenceTokens.tokens - 1) : promptTokens - 1;
  const samplesNow = sequence.wantsToken && sequence.pendingTokens === 0;
  const end = samplesNow ? promptTokens : promptTokens - 1;
  for (let start = first; start < end && !sequence.ended; start += runPositions) {
    const positions = Array.from({ length: Math.min(runPositions, end - start) }, (_, i) => start + i);
    const rows = new HeadRows(runner.gates);
    for (const t of positions) rows.add(sequence, rows.at(sequence, t), t + 1 < promptTokens ? ids[t + 1] : null);
    yield { heads: rows.heads, states: rows.states, output: await runner.run(composeHead(rows)) };
  }
}
