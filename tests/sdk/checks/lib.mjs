// What the checks share.
import { strict as assert } from "node:assert";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";

export { assert };

/**
 * A check of one public member of the client; `check` gets the shared sandbox. `covers` lists the
 * members it is about where the name does not say it.
 */
export const row = (member, check, covers = [memberOf(member)]) => ({ member, check, covers });

/** "spawn.cwd" is about Sandbox.spawn, "ChildProcess.status.oom" about ChildProcess.status. */
function memberOf(name) {
  const path = name.replace(/\(.*$/, "").split(/[ ,[]/)[0];
  const [first, ...rest] = path.split(".");
  if (first === "create") return "Sandbox.create";
  if (first === "spawn" || first === "fetch") return `Sandbox.${first}`;
  if (first === "sandbox") return `Sandbox.${rest[0]}`;
  return [first, ...rest].slice(0, first === "client" ? 3 : 2).join(".");
}

/** The error that `promise` rejects with, whose class and code are asserted. */
export async function rejection(promise, name, code) {
  let error;
  try {
    await promise;
  } catch (thrown) {
    error = thrown;
  }
  assert.ok(error, `nothing was thrown, ${name} was expected`);
  // The package brings Deno's error classes along, so they are told by name, not by instance.
  const found = error.constructor.name;
  assert.ok(found === name || error.name === name, `${found} (${error.name}): ${error.message}`);
  if (code !== undefined) assert.equal(error.code, code, error.message);
  return error;
}

export const bytes = (text) => new TextEncoder().encode(text);
export const text = (data) => new TextDecoder().decode(data);

/** Bytes that look the same in no two places. */
export function pattern(size) {
  const data = new Uint8Array(size);
  let state = 12345;
  for (let i = 0; i < size; i++) {
    state = (Math.imul(state, 1103515245) + 12345) >>> 0;
    data[i] = state >>> 16;
  }
  return data;
}

export function same(found, wanted) {
  assert.equal(found.length, wanted.length);
  assert.ok(found.every((byte, i) => byte === wanted[i]), "the bytes differ");
}

export async function readAll(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return new Uint8Array(await new Blob(chunks).arrayBuffer());
}

export async function collect(iterable) {
  const items = [];
  for await (const item of iterable) items.push(item);
  return items;
}

let number = 0;
/** An absolute path in the guest that no check has used. */
export const fresh = (suffix = "") => `/home/app/check-${process.pid}-${number++}${suffix}`;

/** Runs `work` with a new local folder that is removed afterwards. */
export async function withFolder(work) {
  const folder = await mkdtemp(join(tmpdir(), "hutch-sdk-"));
  try {
    return await work(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** Asks again until `condition` holds. */
export async function eventually(condition, what, milliseconds = 60_000) {
  const end = Date.now() + milliseconds;
  while (!(await condition())) {
    assert.ok(Date.now() < end, `not within ${milliseconds} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
