/** `npm run publish -- --remote` against R2's S3 API, which MSW stands in for: signatures, conditions, faults. */
import { cp, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { HttpResponse, http } from "msw";
import { setupServer } from "msw/node";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { type ArtifactSet, readArtifactSet } from "../../infra/publish/artifact-set.ts";
import { publishSet, rollBack } from "../../infra/publish/publish.ts";
import { s3Store } from "../../infra/publish/store.ts";
import { currentOf, edgeFilesOf, parsePointer, pointerName } from "../../shared/artifacts/bucket.ts";
import { MemoryStore } from "../support/memory-store.ts";
import { writeTinyModel } from "../support/tiny-model.ts";

const endpoint = "https://account.r2.cloudflarestorage.com";
const server = setupServer();
let bucket: MemoryStore;
let folder: string;
let sets: ArtifactSet[];
let signatures: string[];

beforeAll(async () => {
  server.listen({ onUnhandledFrame: "error" });
  folder = await mkdtemp(path.join(tmpdir(), "publish-s3-"));
  const folders = [1, 2].map((seed) => path.join(folder, String(seed)));
  for (const [i, one] of folders.entries()) await writeTinyModel(one, i + 1);
  // The adapters of one model beside the weights of the other would do as well: what counts here is that they differ.
  await cp(path.join(folders[1], "artifacts"), path.join(folders[0], "next"), { recursive: true });
  sets = await Promise.all([path.join(folders[0], "artifacts"), path.join(folders[0], "next")].map(readArtifactSet));
});
afterAll(async () => {
  server.close();
  await rm(folder, { recursive: true });
});
beforeEach(() => {
  bucket = new MemoryStore();
  signatures = [];
  const nameOf = (request: Request) => new URL(request.url).pathname.replace("/artifacts-bucket/", "");
  server.use(
    http.get(`${endpoint}/artifacts-bucket/*`, ({ request }) => {
      signatures.push(request.headers.get("authorization") ?? "");
      const bytes = bucket.objects.get(nameOf(request));
      const missing = "<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>";
      if (!bytes) return new HttpResponse(missing, { status: 404 });
      return new HttpResponse(bytes, { headers: { etag: bucket.etagOf(nameOf(request))! } });
    }),
    http.put(`${endpoint}/artifacts-bucket/*`, async ({ request }) => {
      signatures.push(request.headers.get("authorization") ?? "");
      const bytes = new Uint8Array(await request.arrayBuffer());
      const { headers } = request;
      const found = bucket.etagOf(nameOf(request));
      const isRefused =
        (headers.get("if-none-match") === "*" && found) ||
        (headers.has("if-match") && headers.get("if-match") !== found);
      if (isRefused) return new HttpResponse("<Error><Message>precondition</Message></Error>", { status: 412 });
      await bucket.put(nameOf(request), bytes);
      bucket.metadata = { "edge-files": headers.get("x-amz-meta-edge-files") ?? "" };
      return new HttpResponse(null, { headers: { etag: bucket.etagOf(nameOf(request))! } });
    }),
  );
});
afterEach(() => server.resetHandlers());

const publisher = (secretAccessKey = "secret") => ({
  store: s3Store({ endpoint, bucket: "artifacts-bucket", accessKeyId: "AKID", secretAccessKey }),
  now: () => new Date(Date.UTC(2026, 10, 25)),
  say: () => undefined,
});
const served = () => currentOf(parsePointer(new TextDecoder().decode(bucket.objects.get(pointerName))));

test("publishes, switches and rolls back, every request signed for R2", async () => {
  const [first, second] = sets;
  await publishSet(publisher(), first);
  await publishSet(publisher(), second, { otherModel: true });
  expect(served()).toBe(second.manifestHash);
  await rollBack(publisher(), null);
  expect(edgeFilesOf(bucket.metadata)?.manifest).toBe(sets[0].manifestHash);
  expect(served()).toBe(first.manifestHash);
  const scope = /^AWS4-HMAC-SHA256 Credential=AKID\/\d{8}\/auto\/s3\/aws4_request, .*Signature=[0-9a-f]{64}$/;
  expect(signatures.filter((signature) => !scope.test(signature))).toEqual([]);
  expect(signatures.length).toBeGreaterThan(10);
});

test("of two publishers at once one is told, and nothing is lost", async () => {
  const [first, second] = sets;
  const outcomes = await Promise.allSettled(
    [first, second].map((set) => publishSet(publisher(), set, { otherModel: true })),
  );
  expect(outcomes.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
  const [winner] = outcomes.flatMap((outcome) => (outcome.status === "fulfilled" ? [outcome.value.manifest] : []));
  expect(served()).toBe(winner);
});

test("a passing failure is tried again; a lasting one is told with the bucket's words", async () => {
  let failures = 0;
  server.use(
    http.put(`${endpoint}/artifacts-bucket/*`, () => {
      if (failures++ < 1) return new HttpResponse("<Error><Message>slow down</Message></Error>", { status: 503 });
    }),
  );
  expect(await publishSet(publisher(), sets[0])).toMatchObject({ uploaded: 4, switched: true });
  expect(failures).toBeGreaterThan(1);
  server.use(
    http.get(`${endpoint}/artifacts-bucket/*`, () => {
      return new HttpResponse("<Error><Message>Access Denied</Message></Error>", { status: 403 });
    }),
  );
  await expect(publishSet(publisher(), sets[1])).rejects.toThrow(/answered 403: Access Denied/);
});
