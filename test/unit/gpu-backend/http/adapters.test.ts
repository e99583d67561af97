/** A client that leaves while its adapter is made, over a real connection. */
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { Hono } from "hono";
import { expect, onTestFinished, test } from "vitest";
import { addAdapterRoutes } from "../../../../gpu-backend/http/adapters.ts";
import { listen } from "../../../../gpu-backend/http/server.ts";
import type { AdapterAnswer, AdapterRequest } from "../../../../shared/contracts/inference.ts";

const hash = "a".repeat(64);
const examples = [1, 2].map(() => ({ ids: [1, 2], from: 1 }));
const request: AdapterRequest = { version: 4, manifestHash: "b".repeat(64), tenant: "acme", examples };
const answerOf = (fileBytes: number): AdapterAnswer => ({
  ...{ hash, gain: null, kept: false, losses: [], tokens: 4, timings: { hiddenMs: 0, fitMs: 0 } },
  file: "x".repeat(fileBytes),
});

/** Starts a server that makes one adapter, and calls it. */
async function call() {
  const making = Promise.withResolvers<AdapterAnswer>();
  const removed: string[][] = [];
  const removal = Promise.withResolvers<void>();
  const begun = Promise.withResolvers<AbortSignal>();
  const store = {
    remove: async (...names: string[]) => {
      removed.push(names);
      removal.resolve();
    },
  };
  const begin = async (_: AdapterRequest, signal: AbortSignal) => {
    begun.resolve(signal);
    return { answer: making.promise };
  };
  const app = new Hono();
  addAdapterRoutes(app, { begin, store } as unknown as Parameters<typeof addAdapterRoutes>[1], () => {});
  const server = await listen(app.fetch, { host: "127.0.0.1", port: 0 });
  onTestFinished(() => void server.close());
  const caller = new AbortController();
  const response = await fetch(`http://127.0.0.1:${(server.address() as AddressInfo).port}/v1/adapters`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(request),
    signal: caller.signal,
  });
  return { server, making, removed, removal: removal.promise, signal: await begun.promise, caller, response };
}

test("an adapter whose caller has left when it is kept is removed", async () => {
  const { making, removed, removal, signal, caller } = await call();
  const left = once(signal, "abort");
  caller.abort();
  await left;
  making.resolve(answerOf(1));
  await removal;
  expect(removed).toEqual([["acme", hash]]);
});

test("an adapter whose caller leaves before it has the whole answer is removed", async () => {
  const { making, removed, removal, caller, response } = await call();
  const reader = response.body!.getReader();
  making.resolve(answerOf(2 ** 26));
  while (((await reader.read()).value?.length ?? 0) < 1000);
  caller.abort();
  await removal;
  expect(removed).toEqual([["acme", hash]]);
});

test("an adapter whose answer was delivered stays when the connection ends", async () => {
  const { server, making, removed, signal, response } = await call();
  making.resolve(answerOf(2 ** 20));
  expect(await response.json()).toMatchObject({ hash });
  await new Promise((resolve) => server.close(resolve));
  expect([signal.aborted, removed]).toEqual([false, []]);
});
