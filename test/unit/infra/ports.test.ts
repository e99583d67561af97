import { expect, test } from "vitest";
import { readPort } from "../../../infra/ports.ts";

test("reads a port, or its preset where it is unset or empty", () => {
  const portOf = (value?: string) => readPort({ EDGE_PORT: value }, "EDGE_PORT", 8787);
  expect(["9000", "0", undefined, ""].map(portOf)).toEqual([9000, 0, 8787, 8787]);
});

test.each(["http", "-1", "65536", "80.5", "0x50", " 80"])("refuses %j, naming variable and value", (value) => {
  expect(() => readPort({ EDGE_PORT: value }, "EDGE_PORT", 8787)).toThrow(`EDGE_PORT is "${value}"`);
});
