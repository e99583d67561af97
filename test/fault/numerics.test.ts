/**
 * Two backends whose bits differ, one fp32 and one int8: neither ever goes on with what the other began. A third is the first one
 * come back: it runs already, since how long a start takes is the machine's.
 */
import { isDeepStrictEqual } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Cluster, startCluster } from "./cluster.ts";
import { type Answer, type Body, requestsOf, type Seen, Traffic } from "./traffic.ts";

const streams = 24;
/** Long enough to be under way when a backend is killed. Of one choice each: of two, one may go on where it began while the other, which has no token yet, begins anew elsewhere. */
const bodies = requestsOf(streams, 96).map(({ n: _, ...body }): Body => body);

let cluster: Cluster;
/** What each backend answers alone. */
let expected: Seen[][];

beforeAll(async () => {
  cluster = await startCluster({}, [{ WEIGHT_FORMAT: "fp32" }, { WEIGHT_FORMAT: "int8" }, { WEIGHT_FORMAT: "fp32" }]);
  expected = [];
  for (const backend of [0, 1]) {
    const edge = await cluster.startEdge(false, [backend]);
    const answers = await new Traffic(edge).run(bodies, streams);
    await edge.stop();
    expect(answers.map(({ failure }) => failure)).toEqual(answers.map(() => null));
    expected.push(answers.map(({ seen }) => seen));
  }
});
afterAll(() => cluster?.stop());

/** Which of the backends could have given an answer; nobody where it is a mixture of both. */
const giversOf = ({ seen }: Answer, i: number) =>
  [0, 1].filter((backend) => isDeepStrictEqual(seen, expected[backend][i]));

/**
 * Kills the `first` of an edge's two backends once so many streams have begun that some are its own, then does `after`: the router
 * gives neither backend much more than 5/8.
 */
async function kill(first: number, isProxied: boolean, after: () => void) {
  const edge = await cluster.startEdge(isProxied, [first, 1]);
  try {
    const traffic = new Traffic(edge);
    const running = traffic.run(bodies, streams);
    await traffic.begun((3 / 4) * streams);
    await cluster.end(first, "SIGKILL");
    after();
    const answers = await running;
    return { answers, events: edge.events() };
  } finally {
    await edge.stop();
  }
}

test("the two differ, and say so", async () => {
  const different = bodies.filter((_, i) => !isDeepStrictEqual(expected[0][i], expected[1][i]));
  expect(different.length).toBeGreaterThan(streams / 2);
  const told = await Promise.all(
    cluster.backends
      .slice(0, 2)
      .map(async ({ url }) => ((await (await fetch(`${url}/readyz`)).json()) as { numerics: string }).numerics),
  );
  expect(told).toEqual([expect.stringMatching(/^cpu-fp32-/), expect.stringMatching(/^cpu-int8-/)]);
});

test("streams of a backend that comes back go on there, bit for bit; those without a token go to the other", async () => {
  const { answers, events } = await kill(0, true, () => {
    cluster.proxy.target = cluster.backends[2].url;
  });
  expect(answers.filter(({ failure }) => failure !== null)).toEqual([]);
  answers.forEach((answer, i) => void expect(giversOf(answer, i), JSON.stringify(answer.seen)).not.toEqual([]));
  // Else nothing was tried.
  expect(events.resumed).toBeGreaterThan(0);
  expect(events.not_resumed).toBeUndefined();
});

test("streams of one that stays away end in an explicit error, and are counted; all others are one backend's", async () => {
  const { answers, events } = await kill(2, false, () => {});
  const failed = answers.filter(({ failure }) => failure !== null);
  expect(failed.length).toBeGreaterThan(0);
  for (const { failure } of failed) expect(JSON.parse(failure!).error.code).toBe("numerics_mismatch");
  answers.forEach((answer, i) => {
    if (answer.failure === null) expect(giversOf(answer, i), JSON.stringify(answer.seen)).not.toEqual([]);
  });
  expect(events.not_resumed).toBeGreaterThanOrEqual(failed.length);
});
