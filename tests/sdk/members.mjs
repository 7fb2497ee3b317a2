// The public members of @deno/sandbox, found by looking at the package and at live objects of it, and
// which of them there is nothing behind yet.

const HIDDEN = new Set(["constructor", "then"]);

function names(prefix, object) {
  const found = [];
  for (let at = object; at && at !== Object.prototype && at !== Function.prototype; at = Object.getPrototypeOf(at)) {
    for (const name of Object.getOwnPropertyNames(at)) {
      if (!HIDDEN.has(name) && !/^[_#]/.test(name)) found.push(`${prefix}.${name}`);
    }
  }
  return found;
}

/** Every public member, as `Class.member` or `object.member`, sorted. */
export function publicMembers(library, sandbox, client) {
  const found = new Set();
  const add = (list) => list.forEach((name) => found.add(name));
  for (const [name, value] of Object.entries(library)) {
    // What a client's namespaces hold is listed below.
    if (typeof value !== "function" || value === library.Client) continue;
    if (value.prototype instanceof Error) {
      found.add(name);
      continue;
    }
    for (const member of Object.getOwnPropertyNames(value)) {
      if (!["length", "name", "prototype"].includes(member)) found.add(`${name}.${member}`);
    }
    for (const member of Object.getOwnPropertyNames(value.prototype ?? {})) {
      if (!HIDDEN.has(member) && !member.startsWith("_")) found.add(`${name}.${member}`);
    }
  }
  for (const name of ["fs", "env", "deno"]) add(names(name, Object.getPrototypeOf(sandbox[name])));
  add(names("sh``", Object.getPrototypeOf(sandbox.sh`true`)));
  for (const name of Object.getOwnPropertyNames(Object.getPrototypeOf(client))) {
    if (!HIDDEN.has(name) && !name.startsWith("_")) add(names(`client.${name}`, Object.getPrototypeOf(client[name])));
  }
  return [...found].sort();
}

/** What begins so has no server side yet; its row in the suite asserts how that is said. */
const NOT_YET = [
  [/^Sandbox\.(exposeHttp|url)\b/, "exposed ports are not there yet: a clear error"],
  [/^Sandbox\.(exposeSsh|ssh)\b/, "SSH is not there yet: a clear error"],
  [/^(Sandbox\.exposeVscode|VsCode)\b/, "VS Code is not there yet: a clear error"],
  [/^(Volume|client\.volumes)\b/, "volumes are not there yet: a clear error"],
  [/^(Snapshot|client\.snapshots)\b/, "snapshots are not there yet: a clear error"],
  [/^(Sandbox\.deploy|deno\.deploy|client\.(apps|layers|revisions|timelines))\b/, "of Deno Deploy, no part of a sandbox: a clear error"],
];

/** What works but for a part. */
const PARTLY = [
  [/^(Sandbox|client\.sandboxes)\.create$/, "`secrets`, `volumes`, `port` and `ssh` are refused; of `root`, all but `fork:ID` and snapshots of sandboxes"],
];

const reason = (list, member) => list.find(([pattern]) => pattern.test(member))?.[1] ?? null;

/** {name, notYet, partly}: why there is nothing, or not all, behind a member; null where there is. */
export const describe = (name) => ({ name, notYet: reason(NOT_YET, name), partly: reason(PARTLY, name) });
