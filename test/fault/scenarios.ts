/**
 * Faults of a backend under load, and what clients notice: each stream is compared with the same request's stream in a run without
 * a fault.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";
import type { Cluster } from "./cluster.ts";
import type { Trouble } from "./faulty-proxy.ts";
import { type Answer, type Body, Traffic } from "./traffic.ts";

export interface Scenario {
  name: string;
  /** The fault of a proxy in front of the first backend, from the first request to the last. Without `trouble` there is no proxy. */
  trouble?: Trouble;
  /** Causes the fault, after clients have received a twentieth of all chunks. */
  strike?(cluster: Cluster): Promise<void>;
  /** Undoes the fault. */
  repair?(cluster: Cluster): Promise<void>;
}

export const scenarios: Scenario[] = [
  {
    name: "kill -9",
    strike: (cluster) => cluster.end(0, "SIGKILL"),
    repair: (cluster) => cluster.restart(0),
  },
  {
    name: "engine crash",
    // The backend stays alive and starts its engine again.
    async strike({ backends: [backend] }) {
      const engines = backend.enginePids();
      process.kill(engines.at(-1)!, "SIGSEGV");
      while (backend.enginePids().length === engines.length) await sleep(20);
    },
  },
  {
    name: "hang",
    strike: async ({ backends }) => void backends[0].child.kill("SIGSTOP"),
    repair: async ({ backends }) => void backends[0].child.kill("SIGCONT"),
  },
  { name: "500", trouble: { kind: "failing" } },
  { name: "slow", trouble: { kind: "slow", chunkMs: 150 } },
  {
    name: "rolling restart",
    async strike(cluster) {
      for (const backend of cluster.backends.keys()) {
        await cluster.end(backend, "SIGTERM");
        await cluster.restart(backend);
      }
    },
  },
];

/** The answers without a fault. Throws an Error if one fails. */
export async function undisturbed(cluster: Cluster, bodies: readonly Body[]): Promise<Answer[]> {
  const edge = await cluster.startEdge(false);
  try {
    const answers = await new Traffic(edge).run(bodies);
    const failure = answers.find((answer) => answer.failure !== null);
    if (failure) throw new Error(`without any fault a request failed: ${failure.failure}`);
    return answers;
  } finally {
    await edge.stop();
  }
}

/** Sends the requests again and again until the scenario's fault has happened. */
export async function runScenario(
  cluster: Cluster,
  scenario: Scenario,
  bodies: readonly Body[],
  expected: readonly Answer[],
) {
  const { trouble } = scenario;
  const edge = await cluster.startEdge(trouble !== undefined);
  const traffic = new Traffic(edge);
  const chunks = expected.reduce((sum, answer) => sum + answer.chunks, 0);
  let isOver = false;
  try {
    cluster.proxy.trouble = trouble ?? { kind: "none" };
    const strike = async () => {
      // The fault comes early, because the chunks that clients have received lag behind those that backends have computed.
      await traffic.seen(Math.ceil(chunks / 20));
      await scenario.strike?.(cluster);
    };
    const striking = strike().finally(() => {
      isOver = true;
    });
    const answers: Answer[] = [];
    do answers.push(...(await traffic.run(bodies)));
    while (!isOver);
    await striking;
    const failed = answers.filter(({ failure }) => failure !== null);
    const different = answers.filter(
      ({ failure, seen }, i) => failure === null && !isDeepStrictEqual(seen, expected[i % bodies.length].seen),
    );
    const examples = [...failed.map(({ failure }) => failure!), ...different.map(({ seen }) => JSON.stringify(seen))];
    return {
      failed: failed.length,
      /** Number of streams that differ from the run without a fault. */
      different: different.length,
      events: edge.events(),
      /** The first failures and differences, as text. */
      examples: examples.slice(0, 3),
    };
  } finally {
    cluster.proxy.trouble = { kind: "none" };
    await scenario.repair?.(cluster);
    await edge.stop();
  }
}
