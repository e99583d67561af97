/** The HTTP client of one address, over answers that each test gives: which process is called, and how often. */
import { expect, test } from "vitest";
import { BackendClient, type BatchCall } from "../../../edge/backend/client.ts";
import { misdirectedTries } from "../../../edge/backend/routing-limits.ts";
import { loadHeader } from "../../../shared/contracts/backend-load.ts";
import type { BatchRequest } from "../../../shared/contracts/inference.ts";
import { nameHeader } from "../../../shared/contracts/process-name.ts";
import { sequenceRequest } from "../../support/frames.ts";
import { firstCall, turn } from "../../support/scripted-backends.ts";

const own = "b".repeat(64);
const batch: BatchRequest = {
  version: 1,
  manifestHash: "a".repeat(64),
  centroidId: null,
  adapterHash: own,
  sequences: [sequenceRequest("a")],
};

/** A status and the name of the process that answers with it; an Error where none does. */
type Answer = [status: number, process: string | null] | Error;

/** A client whose calls get these answers in turn, the last one again and again; `calls` are method, URL and name of each. */
function scripted(answers: Answer[], url = "http://b") {
  const calls: string[] = [];
  const client = new BackendClient(url, {
    fileOf: async () => new ArrayBuffer(1),
    async fetch(target, { method = "GET", headers }) {
      const name = new Headers(headers).get(nameHeader);
      calls.push([method, target, ...(name === null ? [] : [name])].join(" "));
      const answer = answers[Math.min(calls.length, answers.length) - 1];
      if (answer instanceof Error) throw answer;
      const [status, process] = answer;
      const named: Record<string, string> = process === null ? {} : { [nameHeader]: process };
      return new Response(status === 204 ? null : "", { status, headers: named });
    },
  });
  const open = (call: Partial<BatchCall> = {}) => {
    return client.openBatch(batch, { ...firstCall(new AbortController().signal), ...call });
  };
  return { client, calls, open };
}
const batches = "POST http://b/v1/batches";
const upload = `PUT http://b/v1/adapters/local/${own}`;

test("cancellations go one after the other, those that came meanwhile together: a backend that hangs takes one connection", async () => {
  const told: string[][] = [];
  const answers: ((status: number) => void)[] = [];
  const client = new BackendClient("http://b", {
    async fetch(_, { body }) {
      told.push(JSON.parse(new TextDecoder().decode(body as Uint8Array)).ids);
      const status = await new Promise<number>((resolve) => answers.push(resolve));
      return new Response("", { status });
    },
  });
  const first = client.cancel(["a"], null);
  const many = Array.from({ length: 200 }, (_, i) => `m${i}`);
  for (const id of many) await client.cancel([id], null);
  await turn();
  expect(told).toEqual([["a"]]);
  answers[0](200);
  await turn();
  expect(told.slice(1)).toEqual([many.slice(0, 128)]);
  answers[1](200);
  await turn();
  answers[2](200);
  await first;
  expect(told.slice(2)).toEqual([many.slice(128)]);
  void client.cancel(["later"], null);
  await turn();
  expect(told.slice(3)).toEqual([["later"]]);
});

test("a cancellation that fails takes along none that came meanwhile", async () => {
  const { client, calls } = scripted([new TypeError("connection refused"), [204, "p1"]]);
  const first = client.cancel(["a"], null);
  await client.cancel(["b"], null);
  await expect(first).rejects.toMatchObject({ kind: "unreachable" });
  expect(calls).toHaveLength(2);
});

test("an adapter is uploaded to the process that lacks it, and the batch sent there again", async () => {
  const { calls, open } = scripted([
    [404, "p1"],
    [421, "p2"],
    [204, "p1"],
    [421, "p3"],
    [200, "p1"],
  ]);
  expect(await open()).toMatchObject({ process: "p1", isMisdirected: false });
  expect(calls).toEqual([batches, `${upload} p1`, `${upload} p1`, `${batches} p1`, `${batches} p1`]);
});

test.each([
  ["7/32", { sequences: 7, slots: 32 }],
  [null, null],
  ["much", null],
])("a batch's answer tells the load %s, where the process reports one", async (header, load) => {
  const client = new BackendClient("http://b", {
    fetch: async () => new Response("", { headers: header === null ? {} : { [loadHeader]: header } }),
  });
  const signal = new AbortController().signal;
  const call = firstCall(signal);
  expect(await client.openBatch({ ...batch, adapterHash: undefined }, call)).toMatchObject({ load });
});

test("processes without names each get the adapter, a bounded number of times", async () => {
  const { calls, open } = scripted([
    [404, null],
    [204, null],
    [404, null],
    [204, null],
    [200, null],
  ]);
  expect(await open()).toMatchObject({ process: null });
  expect(calls).toEqual([batches, upload, batches, upload, batches]);
  const lost = scripted([
    [404, null],
    ...Array(4)
      .fill([
        [204, null],
        [404, null],
      ])
      .flat(),
  ]);
  await expect(lost.open()).rejects.toMatchObject({ kind: "failing" });
});

test("a first call that reaches another process goes to any, and tells that names are not routed", async () => {
  const { calls, open } = scripted([
    [421, "p1"],
    [200, "p2"],
  ]);
  expect(await open({ process: "p0" })).toMatchObject({ process: "p2", isMisdirected: true });
  expect(calls).toEqual([`${batches} p0`, batches]);
});

test("a call for one process alone is repeated past others, and past one that is down", async () => {
  const others: Answer[] = [[421, "p1"], new TypeError("connection refused"), [421, "p1"]];
  const { calls, open } = scripted([...others, [200, "p0"]]);
  expect(await open({ process: "p0", isOnlyProcess: true })).toMatchObject({ process: "p0" });
  expect(calls).toEqual(Array(4).fill(`${batches} p0`));
});

test("it is given up after as many tries as the processes that answered allow", async () => {
  const { calls, open } = scripted([
    [421, "p1"],
    [421, "p2"],
  ]);
  await expect(open({ process: "p0", isOnlyProcess: true })).rejects.toMatchObject({ kind: "misdirected" });
  expect(calls).toHaveLength(misdirectedTries(2));
});

test("a process with a URL of its own is not asked again where that does not answer", async () => {
  const { calls, client } = scripted([new TypeError("connection refused")], "http://{name}.b");
  await expect(client.cancel(["a"], "p0")).rejects.toMatchObject({ kind: "unreachable" });
  expect(calls).toEqual(["POST http://p0.b/v1/cancellations p0"]);
});

test("no call follows a redirect: it would take a prompt to an address that is not configured", async () => {
  const redirects: unknown[] = [];
  const client = new BackendClient("http://b", {
    async fetch(_, { redirect }) {
      redirects.push(redirect);
      return new Response(null, { status: 308, headers: { location: "https://elsewhere.example/login?token=t" } });
    },
  });
  const signal = new AbortController().signal;
  const examples = {
    version: 1,
    manifestHash: "a".repeat(64),
    tenant: "acme",
    centroid: [1],
    examples: [[1, 2]],
  } as const;
  const calls = [
    () => client.openBatch(batch, firstCall(signal)),
    () => client.cancel(["a"], null),
    () => client.readiness(),
    () =>
      client.createAdapter(
        { ...examples, centroid: [...examples.centroid], examples: [[1, 2]] },
        new AbortController().signal,
        () => {},
      ),
    () => client.removeAdapters("acme", own, null),
  ];
  for (const call of calls) {
    const failure = await call().then(
      () => null,
      (thrown) => thrown,
    );
    expect(failure).toMatchObject({ kind: "failing", error: { kind: "backend_unavailable" } });
    expect(String(failure.error.cause)).toMatch(/308.*https:\/\/elsewhere\.example(?!.*login)/);
  }
  expect(redirects).toEqual(calls.map(() => "manual"));
});

test("a failure tells the process that answered", async () => {
  for (const [status, kind] of [
    [503, "unavailable"],
    [429, "overloaded"],
    [401, "failing"],
    [500, "failing"],
    [409, "mismatched"],
  ] as const) {
    await expect(scripted([[status, "p1"]]).open()).rejects.toMatchObject({ kind, process: "p1" });
  }
});

test.each([
  // A restarted process of an address that leads to one has another name.
  ["https://backend.example", [421, 204], [`/v1/adapters/acme/${own} pod-0`, `/v1/adapters/acme/${own} -`], true],
  ["https://backend.example/{name}", [421], [`/pod-0/v1/adapters/acme/${own} pod-0`], false],
  // Whoever answers this is no backend.
  ["https://backend.example", [404], [`/v1/adapters/acme/${own} pod-0`], false],
  ["https://backend.example", [503], [`/v1/adapters/acme/${own} pod-0`], false],
])("at %s a deletion answered by %j is confirmed or not", async (url, statuses, expected, isConfirmed) => {
  const asked: string[] = [];
  const client = new BackendClient(url, {
    async fetch(target, { method, headers }) {
      expect(method).toBe("DELETE");
      asked.push(`${new URL(target).pathname} ${new Headers(headers).get(nameHeader) ?? "-"}`);
      return new Response(null, { status: statuses.shift() });
    },
  });
  const removal = client.removeAdapters("acme", own, "pod-0");
  expect(
    await removal.then(
      () => true,
      () => false,
    ),
  ).toBe(isConfirmed);
  expect(asked).toEqual(expected);
});
