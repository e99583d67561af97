/** The HTTP client of one address, over answers that each test gives: which process is called, and how often. */
import { expect, test } from "vitest";
import { BackendClient, type BatchCall } from "../../../edge/dispatch/client.ts";
import { callVerifier } from "../../../gpu-backend/http/middleware.ts";
import { nameHeader } from "../../../shared/contracts/backend-headers.ts";
import { createSigner } from "../../../shared/contracts/call-signature.ts";
import type { AdapterRequest } from "../../../shared/contracts/inference.ts";
import { batchRequest, sequenceRequest } from "../../support/frames.ts";
import { firstCall } from "../../support/scripted-backends.ts";

const secret = "edge-0123456789abcdef";
const own = "b".repeat(64);
const batch = batchRequest([sequenceRequest("a")], { adapterHash: own });

const { signal } = new AbortController();

/** A status and the name of the process that answers. */
type Answer = [status: number, process: string | null];

/**
 * A client whose calls get these answers in turn, the last one repeatedly. In the result, `calls` has each call's method, URL and name, and
 * `signatures` its Authorization header.
 */
function scripted(answers: Answer[], url = "http://b") {
  const calls: string[] = [];
  const signatures: string[] = [];
  const client = new BackendClient(url, {
    sign: createSigner([secret], () => 0),
    fileOf: async () => new Uint8Array(1),
    async fetch(target, { method = "GET", headers }) {
      const name = new Headers(headers).get(nameHeader);
      calls.push([method, target, ...(name === null ? [] : [name])].join(" "));
      signatures.push(new Headers(headers).get("authorization")!);
      const [status, process] = answers[Math.min(calls.length, answers.length) - 1];
      const named: Record<string, string> = process === null ? {} : { [nameHeader]: process };
      return new Response(status === 204 ? null : "", { status, headers: named });
    },
  });
  const open = (call: Partial<BatchCall> = {}) => client.openBatch(batch, { ...firstCall(signal), ...call });
  return { client, calls, signatures, open };
}

test.each([
  ["http://{name}.b", "http://p1.b", " p1"],
  ["http://b", "http://b", ""],
])(
  "an adapter is uploaded once to the process of %s that lacks it, and the batch sent there again",
  async (url, to, named) => {
    const first = "POST http://b/v1/batches";
    const again = [`PUT ${to}/v1/adapters/local/${own}${named}`, `POST ${to}/v1/batches${named}`];
    const answers: Answer[] = [
      [404, "p1"],
      [204, "p1"],
    ];
    const brought = scripted([...answers, [200, "p1"]], url);
    expect(await brought.open()).toMatchObject({ process: "p1" });
    expect(brought.calls).toEqual([first, ...again]);
    const lost = scripted([...answers, [404, "p1"]], url);
    await expect(lost.open()).rejects.toMatchObject({ kind: "failing", process: "p1" });
    expect(lost.calls).toEqual([first, ...again]);
  },
);

test("a call for one process is signed for it and made once; if another process answers, the call is misdirected", async () => {
  const verify = callVerifier([secret], () => 0);
  for (const [url, target] of [
    ["http://{name}.b", "http://p0.b"],
    ["http://b/{name}", "http://b/p0"],
    ["http://b#{name}", "http://b"],
  ]) {
    const { calls, signatures, open } = scripted([[421, "p1"]], url);
    await expect(open({ process: "p0" })).rejects.toMatchObject({ kind: "misdirected", process: null });
    expect(calls).toEqual([`POST ${target}/v1/batches p0`]);
    // The signed path has no name, because a proxy may cut it off.
    await verify("POST", "/v1/batches", signatures[0], "p0");
  }
});

test("no call follows a redirect: it would take a prompt to an address that is not configured", async () => {
  const redirects: unknown[] = [];
  const client = new BackendClient("http://b", {
    async fetch(_, { redirect }) {
      redirects.push(redirect);
      return new Response(null, { status: 308, headers: { location: "https://elsewhere.example/login?token=t" } });
    },
  });
  const examples = [{ ids: [1, 2], from: 1 }];
  const request: AdapterRequest = { version: 4, manifestHash: "a".repeat(64), tenant: "acme", examples };
  const calls = [
    () => client.openBatch(batch, firstCall(signal)),
    () => client.cancel(["a"], null),
    () => client.readiness(),
    () => client.createAdapter(request, signal, () => {}),
    () => client.remove("adapters", "acme", own, null),
  ];
  for (const call of calls) {
    const failure = await call().catch((thrown) => thrown);
    expect(failure).toMatchObject({ kind: "failing", error: { kind: "backend_unavailable" } });
    expect(String(failure.error.cause)).toMatch(/308.*https:\/\/elsewhere\.example(?!.*login)/);
  }
  expect(redirects).toEqual(calls.map(() => "manual"));
});

test.each([
  ["https://{name}.b.example", "pod-0", 204, "DELETE https://pod-0.b.example/v1/adapters/acme/HASH pod-0", true],
  ["https://b.example", null, 204, "DELETE https://b.example/v1/adapters/acme/HASH", true],
  ["https://{name}.b.example", "pod-0", 421, "DELETE https://pod-0.b.example/v1/adapters/acme/HASH pod-0", false],
  // A backend never answers a deletion with 404, so 404 does not confirm it.
  ["https://b.example", null, 404, "DELETE https://b.example/v1/adapters/acme/HASH", false],
  ["https://b.example", null, 503, "DELETE https://b.example/v1/adapters/acme/HASH", false],
] as const)(
  "at %s a deletion at the process %s goes there once; %i confirms it or not",
  async (url, process, status, call, isConfirmed) => {
    const { calls, client } = scripted([[status, process]], url);
    const removal = client.remove("adapters", "acme", own, process);
    await (isConfirmed ? removal : expect(removal).rejects.toMatchObject({ name: "CallFailure" }));
    expect(calls).toEqual([call.replace("HASH", own)]);
  },
);

test.each<[string, string[], string]>([
  ["falls silent", ['{"type":"progress","tokens":1,"totalTokens":2}\n', "silence"], "silent"],
  ["ends before it is ready", ['{"type":"progress","tokens":1,"totalTokens":2}\n'], "broken"],
  ["says what is no line of progress", ['{"type":"other"}\n'], "broken"],
  ["is busy", ['{"type":"error","kind":"overloaded","message":"m","retryAfterSeconds":3}\n'], "overloaded"],
  ["refuses", ['{"type":"error","kind":"invalid_request","message":"m","retryAfterSeconds":null}\n'], "refused"],
])("a process that makes a memory and %s has failed", async (_, chunks, kind) => {
  const start = (controller: ReadableStreamDefaultController<Uint8Array>) => {
    for (const chunk of chunks) if (chunk !== "silence") controller.enqueue(new TextEncoder().encode(chunk));
    if (!chunks.includes("silence")) controller.close();
  };
  const fetch = async () => new Response(new ReadableStream({ start }));
  const client = new BackendClient("http://b", { fetch, limits: { silenceMs: 25 } });
  const done: number[] = [];
  const progress = (tokens: number) => void done.push(tokens);
  const made = client.putMemory("acme", own, new Uint8Array(), { signal, process: null, progress });
  await expect(made).rejects.toMatchObject({ kind });
  expect(done).toEqual(chunks[0].includes("progress") ? [1] : []);
});

test("a memory fails if its process reports the same progress for ever", async () => {
  const line = new TextEncoder().encode('{"type":"progress","tokens":4,"totalTokens":8}\n');
  let lines = 0;
  const client = new BackendClient("http://b", {
    async fetch() {
      const pull = (controller: ReadableStreamDefaultController<Uint8Array>) => {
        if (++lines > 100_000) controller.close();
        else controller.enqueue(line);
      };
      return new Response(new ReadableStream({ pull }));
    },
  });
  const made = client.putMemory("acme", own, new Uint8Array(), { signal, process: null });
  await expect(made).rejects.toMatchObject({ kind: "silent" });
  expect(lines).toBeLessThan(2000);
});
