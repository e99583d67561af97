/** The edge with regions around it, in a bare workerd: which calls a first token waits for, and where they go. */
import { afterAll, beforeAll, expect, test } from "vitest";
import { roundTripMs } from "../../edge/dispatch/router.ts";
import { type Region, regions } from "../../edge/platform/region.ts";
import { key, type RegionalEdge, startRegionalEdge } from "../support/regions/regional-edge.ts";
import { beforeFirstToken, type Event, home, regionHeader, wake } from "../support/regions/world.ts";

const backendRegions: Region[] = ["wnam", "weur", "apac"];

let edge: RegionalEdge;

beforeAll(async () => {
  edge = await startRegionalEdge(backendRegions);
});
afterAll(() => edge.stop());

async function complete(region: Region): Promise<void> {
  const response = await fetch(`${edge.url}/v1/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${key}`, "content-type": "application/json", [regionHeader]: region },
    body: JSON.stringify({ model: "gpt2:auto", prompt: `Greetings from ${region}`, max_tokens: 2, stream: true }),
  });
  expect(await response.text()).toContain("[DONE]");
}

/** Completes one request of each region, all at once; resolves to the events of them. */
async function completeEverywhere(): Promise<Event[]> {
  await Promise.all(regions.map(complete));
  return edge.takeEvents();
}

const nearestBackend = (region: Region) =>
  backendRegions.reduce((a, b) => (roundTripMs(region, b) < roundTripMs(region, a) ? b : a));
/** An isolate asks once for a tenant that has no adapters, and later behind an answer. */
const isLook = ({ what }: Event) => what === "ADAPTERS nearest";
const callsOf = (events: Event[], region: Region) => beforeFirstToken(events, region).filter((call) => !isLook(call));
const shown = ({ what, to }: Event) => `${what} in ${to}`;

test("a request leaves its region only for its tenant's own objects, once, and for a backend", async () => {
  const events = await completeEverywhere();
  // Those that found the Worker cold woke their cells, in the region and beside the request: nobody waits for it.
  const woken = events.filter(({ what }) => what === wake);
  expect(woken.length).toBeGreaterThan(0);
  for (const { from, to } of woken) expect(to).toBe(from);
  // The tenant's ledger is where its first request came from.
  const { from, to } = events.find(({ what }) => what === "LEDGERS admit")!;
  expect(to).toBe(from);
  const expected = (region: Region) => [
    `LEDGERS admit in ${to}`,
    `CELLS fetch in ${region}`,
    `backend /v1/batches in ${nearestBackend(region)}`,
  ];
  for (const region of regions) expect(callsOf(events, region).map(shown), region).toEqual(expected(region));
  expect(new Set(events.filter(isLook).map((look) => look.to))).toEqual(new Set([home]));

  const warm = await completeEverywhere();
  expect(warm.map(({ what }) => what)).not.toContain(wake);
  for (const region of regions) {
    const calls = callsOf(warm, region);
    expect(calls.map(shown), region).toEqual(expected(region));
    expect(calls[1].object).toMatch(new RegExp(`^cell-${region}-`));
  }
});
