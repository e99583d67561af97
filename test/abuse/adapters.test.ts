/**
 * Attack: making adapters, the longest work that one request can cause: many at once, and many whose callers leave. Judged by the time that
 * another tenant's small adapter takes, compared with its time beside harmless requests made one after another, and by the charges.
 */
import { setTimeout as wait } from "node:timers/promises";
import { beforeAll, expect, test } from "vitest";
import { seededRandom } from "../support/steps.ts";
import { postBytes, sendAndNeverRead } from "./clients.ts";
import { keyOf, startAttacked } from "./edge.ts";
import { p95 } from "./measurements.ts";

/** Maximum ratio of the victim's p95 time under attack to its p95 time beside harmless requests, in the same run. */
const mostSlowdown = 2;
/** Number of requests in each phase. */
const requests = 12;
const patience = { timeout: 60_000, interval: 50 };

const random = seededRandom(4);
const words = "river stone copper lantern orchard winter signal harbour velvet engine meadow ticket".split(" ");
const textOf = (length: number) => Array.from({ length }, () => words[Math.floor(random() * words.length)]).join(" ");
const large = Array.from({ length: 3 }, () => textOf(60));
const small = Array.from({ length: 3 }, () => textOf(6));

const { edge } = await startAttacked({ victim: {}, harmless: {}, attacker: {}, leaver: {} });
beforeAll(async () => {
  await make("victim", small);
  await removeOwn();
});

let made = 0;
const bodyOf = (tenant: string, examples: string[]) => ({ name: tenant === "victim" ? "own" : `a${made++}`, examples });

/** Makes an adapter, and resolves to the response's status. */
async function make(tenant: string, examples: string[]): Promise<number> {
  const response = await edge.post("/v1/adapters", tenant, bodyOf(tenant, examples));
  const text = await response.text();
  if (response.status === 429) expect(Number(response.headers.get("retry-after")), text).toBeGreaterThan(0);
  return response.status;
}

/** Asks for an adapter and resets the connection after `leaveMs`: workerd ignores a client that only ends its side. */
async function askAndLeave(tenant: string, examples: string[], leaveMs: number): Promise<void> {
  const socket = await sendAndNeverRead(edge.port, postBytes("/v1/adapters", tenant, bodyOf(tenant, examples)));
  await wait(leaveMs);
  socket.resetAndDestroy();
}

/** Deletes the victim's adapter, so that it can be made again under the same name. */
async function removeOwn(): Promise<void> {
  const headers = { authorization: `Bearer ${keyOf("victim")}` };
  expect((await fetch(`${edge.url}/v1/adapters/own`, { method: "DELETE", headers })).status).toBe(200);
}

/** Times in milliseconds that the victim's adapter takes while `others` run. */
async function timesBeside(others: () => Promise<unknown>): Promise<number[]> {
  let isOver = false;
  const ended = others().finally(() => {
    isOver = true;
  });
  // After this wait the others' requests have arrived.
  await wait(100);
  const times: number[] = [];
  while (!isOver && times.length < 40) {
    const startMs = performance.now();
    expect(await make("victim", small)).toBe(201);
    times.push(performance.now() - startMs);
    await removeOwn();
  }
  await ended;
  return times;
}

const shown = (times: number[]) => times.map((ms) => ms.toFixed(0)).join(" ");

test("a tenant's adapter is made about as fast beside many at once as beside the same number one after another", async () => {
  const alone = Array.from({ length: requests });
  const harmless: number[] = [];
  const attacked: number[] = [];
  const statuses: number[] = [];
  // Harmless requests and attacks take turns, so that a slow minute of the machine affects both.
  for (const _ of [1, 2]) {
    const ofHarmless = await timesBeside(async () => {
      for (const _ of alone) expect(await make("harmless", large)).toBe(201);
    });
    harmless.push(...ofHarmless);
    const ofAttacked = await timesBeside(() =>
      Promise.all(alone.map(async () => statuses.push(await make("attacker", large)))),
    );
    attacked.push(...ofAttacked);
  }
  const rounds = 3;
  const left = await timesBeside(() =>
    Promise.all(
      alone.slice(0, requests / rounds).map(async () => {
        for (let i = 0; i < rounds; i++) await askAndLeave("leaver", large, 700);
      }),
    ),
  );
  console.log(
    `beside harmless ones ${shown(harmless)}; beside many ${shown(attacked)}; beside leavers ${shown(left)} ms`,
  );
  console.log(`statuses of the attacks ${statuses.join(" ")}`);
  expect(p95(attacked) / p95(harmless)).toBeLessThan(mostSlowdown);
  expect(p95(left) / p95(harmless)).toBeLessThan(mostSlowdown);
}, 180_000);

test("what was begun is charged though its caller has left, and what was refused is not", async () => {
  await expect.poll(async () => (await edge.usage("leaver")).prompt_tokens, patience).toBeGreaterThan(0);
  const [attacker, leaver] = [await edge.usage("attacker"), await edge.usage("leaver")];
  console.log(`charged: attacker ${attacker.prompt_tokens}, leaver ${leaver.prompt_tokens}`);
  const each = attacker.prompt_tokens / attacker.requests;
  expect(leaver.prompt_tokens % each).toBe(0);
  expect(leaver.prompt_tokens).toBeLessThanOrEqual(each * requests);
});
