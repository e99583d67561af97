/** The bucket as a backend reads it, over HTTP (MSW stands in) and in a folder. */
import { writeFile } from "node:fs/promises";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { HttpResponse, http } from "msw";
import { setupServer } from "msw/node";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { openStore } from "../../../../../gpu-backend/host/sets/set-folder.ts";
import { temporaryFolder } from "../../../../support/temporary-folder.ts";

const url = "https://account.r2.cloudflarestorage.com/bucket";
const server = setupServer();
const folder = temporaryFolder();
beforeAll(() => server.listen({ onUnhandledFrame: "error" }));
afterEach(() => server.resetHandlers());
afterAll(() => server.close());

test("a folder gives the objects that are in it, and nothing else", async () => {
  await writeFile(path.join(folder, "one"), Uint8Array.of(1, 2));
  const read = openStore({ url: pathToFileURL(folder).href, credentials: null });
  expect(Uint8Array.from((await read("one", 2))!)).toEqual(Uint8Array.of(1, 2));
  expect(await read("artifacts/two", 2)).toBeNull();
});

test.each([
  ["unsigned where it is open", null, /^$/],
  [
    "signed for R2 where there are credentials",
    { accessKeyId: "AKID", secretAccessKey: "secret" },
    /^AWS4-HMAC-SHA256 Credential=AKID\/\d{8}\/auto\/s3\/aws4_request, .*Signature=[0-9a-f]{64}$/,
  ],
])("objects are requested over HTTP %s", async (_, credentials, signature) => {
  const seen: string[] = [];
  server.use(
    http.get(`${url}/*`, ({ request }) => {
      seen.push(request.headers.get("authorization") ?? "");
      const isThere = new URL(request.url).pathname === "/bucket/artifacts/one";
      return isThere ? new HttpResponse(Uint8Array.of(3)) : new HttpResponse(null, { status: 404 });
    }),
  );
  const read = openStore({ url: `${url}/`, credentials });
  expect(await read("artifacts/one", 2)).toEqual(Uint8Array.of(3));
  expect(await read("artifacts/two", 2)).toBeNull();
  expect(seen.filter((one) => signature.test(one))).toHaveLength(2);
});

test("an object is read one byte past the bound at most, and the rest never arrives", async () => {
  let sent = 0;
  let isCancelled = false;
  const endless = new ReadableStream<Uint8Array>({
    pull(controller) {
      sent += 1000;
      controller.enqueue(new Uint8Array(1000));
    },
    cancel() {
      isCancelled = true;
    },
  });
  server.use(http.get(`${url}/endless`, () => new HttpResponse(endless)));
  const read = openStore({ url, credentials: null });
  expect((await read("endless", 4500))?.length).toBe(4501);
  await expect.poll(() => isCancelled).toBe(true);
  expect(sent).toBeLessThan(100_000);
  await writeFile(path.join(folder, "large"), new Uint8Array(5000));
  expect((await openStore({ url: pathToFileURL(folder).href, credentials: null })("large", 4500))?.length).toBe(4501);
});

test("a refusal and a broken connection are errors, not absences", async () => {
  server.use(
    http.get(`${url}/denied`, () => new HttpResponse(null, { status: 403 })),
    http.get(`${url}/broken`, () => HttpResponse.error()),
  );
  const read = openStore({ url, credentials: null });
  await expect(read("denied", 2)).rejects.toThrow(/denied answered 403/);
  await expect(read("broken", 2)).rejects.toThrow();
});
