/**
 * Mixes expert probabilities that an earlier run of the serving graph returned, with the same arithmetic. A separate, smaller
 * graph, in which one row takes half the time. It always runs on the CPU, where its inputs are.
 */
import { GraphBuilder } from "./graph.ts";
import { names } from "./graph-names.ts";
import { addMixture } from "./head-graph.ts";
import { mixtureFeeds } from "./mixed-feeds.ts";
import { readRows, rowFetches } from "./row-feeds.ts";
import { openSession, type Session, tensor } from "./session.ts";
import type { KeptMixture, ModelShape, RowOutput } from "./step.ts";

const { mixed: n } = names;

export function openMixingSession(config: ModelShape): Promise<Session> {
  const g = new GraphBuilder("mixing");
  const { vocabularySize: V } = config;
  const mixture = {
    base: g.input(n.keptBase, "float32", ["G", V]),
    adapters: g.input(n.keptAdapters, "float32", ["G", "J", V]),
    hasAdapters: g.input(n.hasAdapters, "bool", []),
    targetIds: g.input(n.targetIds, "int32", ["G"]),
    cosines: g.input(n.cosines, "float32", ["G", "P"]),
  };
  addMixture({ g, config, power: (x, y) => g.node("Pow", [x, y]) }, mixture);
  // A few rows: to wake other threads would take longer.
  return openSession(g.bytes(), { threads: 1 });
}

export async function mixKept(session: Session, config: ModelShape, input: KeptMixture): Promise<RowOutput> {
  const { vocabularySize: V } = config;
  const { adapters: J, experts, cosines, inverseTemperatures, wantsScores } = input;
  const X = input.baseWeights.length;
  const feeds = {
    ...mixtureFeeds(input, J, true),
    [n.keptBase]: tensor(experts.base, [X, V]),
    [n.keptAdapters]: tensor(experts.adapters, [X, J, V]),
    [n.cosines]: tensor(cosines, [X, input.pointer.positions]),
  };
  const results = await session.run(feeds, rowFetches(n, inverseTemperatures, wantsScores));
  return readRows(results, n, X, { areLikelihoods: true, inverseTemperatures, wantsScores });
}
