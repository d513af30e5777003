// What is done to a fresh global state before an inline function sees it; the value is what calls the function. It runs
// before every call: what it does not touch costs nothing, since the engine makes its globals when they are first used.
//
// parse is native: it reads JSON to the letter, where the engine's own parser refuses 1e400, loses lone surrogates, and
// ends the whole server on text that is nested deeply enough.
(function (parse) {
  'use strict';
  const {defineProperty, getPrototypeOf} = Object;
  const arrays = getPrototypeOf([]), strings = getPrototypeOf('');
  const {repeat, padStart, padEnd} = strings;

  const put = (object, name, value) =>
    defineProperty(object, name, {value, writable: true, enumerable: false, configurable: true});

  const revive = (holder, key, reviver) => {
    const value = holder[key];
    if (value !== null && typeof value === 'object') {
      for (const k of Object.keys(value)) {
        const revived = revive(value, k, reviver);
        if (revived === undefined) delete value[k];
        else defineProperty(value, k, {value: revived, writable: true, enumerable: true, configurable: true});
      }
    }
    return reviver.call(holder, key, value);
  };

  // The engine's own flat recurses without end where an array holds itself, and ends the server.
  const flatten = (into, from, depth) => {
    for (let i = 0; i < from.length; i++) {
      if (!(i in from)) continue;
      if (depth >= 1 && Array.isArray(from[i])) flatten(into, from[i], depth - 1);
      else into[into.length] = from[i];
    }
    return into;
  };

  // Other engines do not make longer strings either; this one would take all memory, and end the server.
  const checked = (length) => {
    if (length > 2 ** 29) throw new RangeError('Invalid string length');
  };

  const better = {
    parse(text, reviver) {
      const value = parse(`${text}`, SyntaxError);
      return typeof reviver === 'function' ? revive({'': value}, '', reviver) : value;
    },
    flat(depth = 1) { return flatten([], this, Math.trunc(depth)); },
    repeat(count) { checked(`${this}`.length * count); return repeat.call(this, count); },
    padStart(length, fill) { checked(length); return padStart.call(this, length, fill); },
    padEnd(length, fill) { checked(length); return padEnd.call(this, length, fill); },
  };
  put(JSON, 'parse', better.parse);
  put(arrays, 'flat', better.flat);
  put(strings, 'repeat', better.repeat);
  put(strings, 'padStart', better.padStart);
  put(strings, 'padEnd', better.padEnd);

  return (f, log, done, returned, threw) => {
    try {
      returned(f(log, done));
    } catch (e) {
      threw(e);
    }
  };
})
