/** New artifacts are published while tenants use their own adapters: each adapter always answers, and is made again. */
import path from "node:path";
import { expect, test } from "vitest";
import { type ArtifactSet, readArtifactSet } from "../../infra/publish/artifact-set.ts";
import type { Adapter, AdapterList, CompletionResponse } from "../../shared/contracts/responses.ts";
import { stopAtEnd } from "../support/at-end.ts";
import { FolderBucket, publishTo } from "../support/memory-bucket.ts";
import { smallArtifacts, smallBase } from "../support/small-base.ts";
import { temporaryFolder } from "../support/temporary-folder.ts";
import { variantOf } from "../support/tiny-model.ts";
import { startMemoryCluster } from "./memory-cluster.ts";

const tenants = Array.from({ length: 12 }, (_, i) => `tenant-${i}`);
/** Every third tenant has examples as well as documents. */
const isTaught = (tenant: string) => tenants.indexOf(tenant) % 3 === 0;
const patience = { timeout: 240_000, interval: 500 };
const variant = await variantOf(smallBase, path.join(temporaryFolder(), "variant"), "variant");
const [old, next] = await Promise.all([smallArtifacts, variant].map(readArtifactSet));
const cluster = stopAtEnd(await startMemoryCluster(tenants, { ARTIFACTS_POLL_MS: "100" }));
const publish = (set: ArtifactSet) => publishTo(new FolderBucket(cluster.bucket), set);
const fingerprintOf = ({ manifestHash }: ArtifactSet) => `fp_${manifestHash.slice(0, 12)}`;
const adapterOf = async (tenant: string): Promise<Adapter> => {
  const { data } = (await (await cluster.call(tenant, "GET", "/v1/adapters")).json()) as AdapterList;
  expect(data).toHaveLength(1);
  return data[0];
};

/** Asks an adapter by name, or lets the prompt choose. Returns the fingerprint of the artifacts that answered; the memory must be used. */
async function ask(tenant: string, isNamed: boolean): Promise<string> {
  const chameleon = isNamed ? { adapter: "notes" } : {};
  const body = { prompt: `The boats of ${tenant} carry`, max_tokens: 4, chameleon };
  const answered = await cluster.call(tenant, "POST", "/v1/completions", body);
  const text = await answered.text();
  expect(answered.status, `${tenant}, ${isNamed ? "by name" : "auto"}: ${text}`).toBe(200);
  const { choices, system_fingerprint } = JSON.parse(text) as CompletionResponse;
  expect(
    choices[0].chameleon?.memories?.map(({ id }) => id),
    `${tenant}: ${text}`,
  ).toEqual(["notes"]);
  return system_fingerprint;
}

test("every adapter answers at any moment, every answer names its artifacts, and all adapters are made again", async () => {
  await publish(old);
  for (const tenant of tenants) {
    const documents = [
      { name: "boats.md", text: `The boats of ${tenant} carry salt and timber past the quiet mills to the sea.` },
    ];
    const examples = Array.from({ length: 4 }, (_, i) => ({ prompt: `${tenant} says ${i}:`, completion: " aye, aye" }));
    const body = { name: "notes", documents, ...(isTaught(tenant) && { examples }) };
    const made = await cluster.call(tenant, "POST", "/v1/adapters", body);
    expect(made.status, await made.text()).toBe(201);
    expect(await ask(tenant, true)).toBe(fingerprintOf(old));
  }
  const first = new Map(await Promise.all(tenants.map(async (tenant) => [tenant, await adapterOf(tenant)] as const)));

  await publish(next);
  const seen = new Map(tenants.map((tenant) => [tenant, [] as string[]]));
  const state = { isOver: false };
  const failures: unknown[] = [];
  const traffic = tenants.map(async (tenant) => {
    for (let i = 0; !state.isOver; i++) seen.get(tenant)!.push(await ask(tenant, i % 2 === 0));
  });
  for (const one of traffic) one.catch((thrown) => failures.push(thrown));
  const hasSwitched = (tenant: string) => seen.get(tenant)!.at(-1) === fingerprintOf(next);
  await expect.poll(() => failures.length > 0 || tenants.every(hasSwitched), patience).toBe(true);
  state.isOver = true;
  await Promise.all(traffic);

  for (const tenant of tenants) {
    const prints = seen.get(tenant)!;
    // Each tenant switches once from the old set to the new one.
    const switched = prints.indexOf(fingerprintOf(next));
    expect(prints.slice(0, switched).every((print) => print === fingerprintOf(old))).toBe(true);
    expect(prints.slice(switched).every((print) => print === fingerprintOf(next))).toBe(true);
    const [before, after] = [first.get(tenant)!, await adapterOf(tenant)];
    expect(after).toMatchObject({
      outdated: false,
      refit: null,
      examples: before.examples,
      memory: { status: "ready" },
    });
    expect(after.memory!.hash).not.toBe(before.memory!.hash);
    if (isTaught(tenant)) expect(after.hash).not.toBe(before.hash);
  }
}, 600_000);
