import { once } from "node:events";
import { type AddressInfo, createServer } from "node:net";
import { expect, onTestFinished, test } from "vitest";
import { assertPortsFree, readPort } from "../../../infra/ports.ts";

test("reads a port, or its preset where it is unset or empty", () => {
  expect(readPort({ EDGE_PORT: "9000" }, "EDGE_PORT", 8787)).toBe(9000);
  expect(readPort({ EDGE_PORT: "0" }, "EDGE_PORT", 8787)).toBe(0);
  expect(readPort({}, "EDGE_PORT", 8787)).toBe(8787);
  expect(readPort({ EDGE_PORT: "" }, "EDGE_PORT", 8787)).toBe(8787);
});

test.each(["http", "-1", "65536", "80.5", "0x50", " 80"])("refuses %j, naming variable and value", (value) => {
  expect(() => readPort({ EDGE_PORT: value }, "EDGE_PORT", 8787)).toThrow(`EDGE_PORT is "${value}"`);
});

test("names the taken port and its variable, and holds none of the ports afterwards", async () => {
  const taken = createServer().listen(0, "127.0.0.1");
  onTestFinished(() => void taken.close());
  await once(taken, "listening");
  const { port } = taken.address() as AddressInfo;
  await expect(
    assertPortsFree([
      ["EDGE_PORT", 0],
      ["BACKEND_PORT", port],
    ]),
  ).rejects.toThrow(`port ${port} is in use; set BACKEND_PORT to another`);
  await once(taken.close(), "close");
  await assertPortsFree([["BACKEND_PORT", port]]);
  await assertPortsFree([["BACKEND_PORT", port]]);
  await expect(
    assertPortsFree([
      ["EDGE_PORT", port],
      ["BACKEND_PORT", port],
    ]),
  ).rejects.toThrow("set BACKEND_PORT to another");
});
