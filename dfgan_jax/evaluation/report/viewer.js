"use strict";
// The viewer of slices; dfgan_jax/evaluation/report/viewer.py says how they are packed.
(() => {
  const viewer = document.getElementById("slice-viewer");
  const data = JSON.parse(document.getElementById("viewer-data").textContent);
  const part = (name) => viewer.querySelector(`[data-part="${name}"]`);
  const stage = part("stage");
  const canvases = [part("first-picture"), part("second-picture")];
  const captions = [part("first-caption"), part("second-caption")];
  const selects = [part("first"), part("second")];
  const { width: columns, height: rows, stepHu, undefined: missing } = data;
  const PIXELS_A_DOUBLING = 256; // a drag of so many doubles the width of the window
  const MOST_IN_MEMORY = 48;
  const MOST_ZOOM = 16;
  const SCALES_MM = [100, 50, 20, 10, 5, 2, 1];

  const state = {
    slice: data.slices.length >> 1,
    shown: [data.first, data.second], // numbers of rows
    view: "split", // or one, two, difference
    center: data.presets[data.preset][1][0],
    width: data.presets[data.preset][1][1],
    limit: data.limitHu, // the difference scale runs from -limit to +limit
    split: 50, // the divider's place, in % of the picture's width
    zoom: 1,
    corner: [0, 0], // of the visible part, in pixels of the slice
    pixel: null, // under the pointer: [x, y]
  };

  // Unpacking.

  const unpacked = new Map(); // id of a slice's text -> promise of its levels

  function image(row, slice) {
    const id = `image-${row}-${slice}`;
    if (!unpacked.has(id)) {
      unpacked.set(id, unpack(document.getElementById(id).textContent));
      if (unpacked.size > MOST_IN_MEMORY) unpacked.delete(unpacked.keys().next().value);
    }
    return unpacked.get(id);
  }

  async function unpack(text) {
    const binary = atob(text);
    const packed = new Uint8Array(binary.length);
    for (let i = 0; i < packed.length; i += 1) packed[i] = binary.charCodeAt(i);
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    const planes = new Uint8Array(await new Response(stream).arrayBuffer());
    const levels = new Int16Array(rows * columns);
    for (let i = 0, y = 0; y < rows; y += 1) {
      for (let x = 0; x < columns; x += 1, i += 1) {
        const left = x ? levels[i - 1] : 0;
        const up = y ? levels[i - columns] : 0;
        const corner = x && y ? levels[i - columns - 1] : 0;
        const zigzag = planes[i] | (planes[i + levels.length] << 8);
        levels[i] = ((3 * left + 3 * up - 2 * corner) >> 2) + ((zigzag >> 1) ^ -(zigzag & 1));
      }
    }
    return levels;
  }

  // Drawing. Colours are those of the figures: the array clamps, and rounds half to even.

  const palette = Uint8Array.from(atob(data.palette), (c) => c.charCodeAt(0));
  const middle = (palette.length / 3 - 1) / 2;

  function differenceOf(first, second, i) {
    return first[i] === missing || second[i] === missing ? NaN : (first[i] - second[i]) * stepHu;
  }

  const whole = document.createElement("canvas");
  whole.width = columns;
  whole.height = rows;

  function paint(canvas, colourOf) {
    const picture = new ImageData(columns, rows);
    const colours = new Uint32Array(picture.data.buffer);
    for (let i = 0; i < colours.length; i += 1) colours[i] = colourOf(i);
    whole.getContext("2d").putImageData(picture, 0, 0);
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(whole, ...state.corner, columns / state.zoom, rows / state.zoom,
      0, 0, columns, rows);
  }

  // A colour is one number, in whichever order this machine keeps its bytes.
  function colourTable(count, colour) {
    const bytes = new Uint8ClampedArray(4 * count).fill(255);
    for (let i = 0; i < count; i += 1) bytes.set(colour(i), 4 * i);
    return new Uint32Array(bytes.buffer);
  }
  const greys = colourTable(256, (i) => [i, i, i]);
  const differences = colourTable(2 * middle + 1, (i) => palette.subarray(3 * i, 3 * i + 3));

  function paintGrey(canvas, levels) {
    const black = state.center - state.width / 2;
    const grey = new Uint8ClampedArray(1);
    paint(canvas, (i) => {
      grey[0] = (levels[i] * stepHu - black) * (255 / state.width);
      return greys[grey[0]];
    });
  }

  function paintDifference(canvas, first, second) {
    paint(canvas, (i) => {
      const place = Math.round((differenceOf(first, second, i) || 0) * (middle / state.limit));
      return differences[Math.min(Math.max(place, -middle), middle) + middle];
    });
  }

  // Words.

  const number = (value, digits, signed = false) => (Number.isFinite(value)
    ? (signed && value > 0 ? "+" : "") + value.toFixed(digits).replace("-", "−") : "–");

  function moments(first, second) {
    let sum = 0;
    let squares = 0;
    for (let i = 0; i < first.length; i += 1) {
      const difference = differenceOf(first, second, i);
      sum += difference;
      squares += difference * difference;
    }
    const mean = sum / first.length;
    const square = squares / first.length;
    return { mean, rmse: Math.sqrt(square), deviation: Math.sqrt(square - mean * mean) };
  }

  function scores(row, levels, ndct) {
    if (!ndct) return "";
    if (row === data.reference) return "reference";
    const { rmse } = moments(levels, ndct);
    const psnr = 20 * Math.log10(data.rangeHu / rmse);
    return `PSNR ${number(psnr, 2)} dB (range ${data.rangeHu} HU), RMSE ${number(rmse, 1)} HU`;
  }

  function caption(place, name, words) {
    const heading = document.createElement("b");
    heading.textContent = name;
    captions[place].replaceChildren(heading, document.createElement("br"), words);
    canvases[place].setAttribute("aria-label", `${name}, ${data.slices[state.slice]}`);
  }

  let ticket = 0;
  let inView = null; // the images last drawn

  async function draw() {
    ticket += 1;
    const mine = ticket;
    stage.setAttribute("aria-busy", "true");
    const rows = data.reference === null ? state.shown : [...state.shown, data.reference];
    const [first, second, ndct] = await Promise.all(rows.map((row) => image(row, state.slice)));
    if (mine !== ticket) return; // another slice was asked for in the meantime
    inView = [first, second];
    const names = state.shown.map((row) => data.rows[row]);
    if (state.view === "difference") {
      paintDifference(canvases[0], second, first);
      const { mean, deviation } = moments(second, first);
      caption(0, `${names[1]} − ${names[0]}`,
        `mean ${number(mean, 1, true)} HU, SD ${number(deviation, 1)} HU`);
    } else {
      for (const place of state.view === "one" ? [0] : [0, 1]) {
        paintGrey(canvases[place], inView[place]);
        caption(place, names[place], scores(state.shown[place], inView[place], ndct));
      }
    }
    readOut();
    stage.setAttribute("aria-busy", "false");
  }

  function readOut() {
    const [x, y] = state.pixel ?? [];
    if (x === undefined || !inView) {
      part("readout").textContent = "Point at the picture for its HU.";
      return;
    }
    const i = y * columns + x;
    const hu = (levels) => number(levels[i] === missing ? NaN : levels[i] * stepHu, 0);
    const [first, second] = state.shown.map((row) => data.rows[row]);
    part("readout").textContent = `column ${x}, row ${y}: ${first} ${hu(inView[0])} HU, `
      + `${second} ${hu(inView[1])} HU, difference `
      + `${number(differenceOf(inView[1], inView[0], i), 0, true)} HU`;
  }

  // Every change goes through here: state, controls and picture never disagree.
  function change(wanted) {
    const bound = (value, low, high) => Math.min(Math.max(value, low), high);
    const rounded = (value, otherwise) => (Number.isFinite(value) ? Math.round(value) : otherwise);
    const { center, width, limit } = state;
    Object.assign(state, wanted);
    state.slice = bound(state.slice, 0, data.slices.length - 1);
    state.split = bound(state.split, 0, 100);
    state.width = bound(rounded(state.width, width), 1, 65535);
    state.limit = bound(rounded(state.limit, limit), 1, 65535);
    state.corner = [columns, rows].map(
      (size, axis) => bound(state.corner[axis], 0, size - size / state.zoom));
    if (!Number.isFinite(state.center)) state.center = center;

    const grey = state.view !== "difference";
    stage.dataset.view = state.view;
    stage.style.setProperty("--split", `${state.split}%`);
    part("divider").setAttribute("aria-valuenow", String(Math.round(state.split)));
    selects.forEach((select, place) => { select.value = String(state.shown[place]); });
    for (const button of viewer.querySelectorAll("[data-view-button]")) {
      button.setAttribute("aria-pressed", String(button.dataset.viewButton === state.view));
    }
    for (const button of viewer.querySelectorAll("[data-preset]")) {
      const [, [presetCenter, presetWidth]] = data.presets[button.dataset.preset];
      button.setAttribute("aria-pressed",
        String(presetCenter === state.center && presetWidth === state.width));
    }
    part("window-controls").hidden = !grey;
    part("difference-controls").hidden = grey;
    part("bar").hidden = grey;
    captions[1].hidden = state.view === "one" || state.view === "difference";
    for (const name of ["center", "width", "limit"]) part(name).value = String(state[name]);
    part("lowest").textContent = `−${state.limit} HU`;
    part("highest").textContent = `+${state.limit} HU`;
    part("zoom").textContent = `${number(state.zoom, state.zoom % 1 ? 1 : 0)}×`;
    if (data.pixelSpacingMm) {
      const across = (columns / state.zoom) * data.pixelSpacingMm; // of the visible part, in mm
      const length = SCALES_MM.find((each) => each <= across / 4) ?? 1;
      part("scale").style.setProperty("--share", String(length / across));
      part("scale-length").textContent = length < 10 ? `${length} mm` : `${length / 10} cm`;
    }
    part("slice").value = String(state.slice);
    const label = data.slices[state.slice];
    part("slice").setAttribute("aria-valuetext", label);
    part("slice-name").textContent = `${label} (${state.slice + 1} of ${data.slices.length})`;
    draw();
  }

  // Controls.

  // Zooms so that the point of the slice at a place of a view is at another place afterwards.
  // Places are [across, down] in shares of the visible part.
  function zoomTo(wanted, from, place, to = place) {
    const zoom = Math.min(Math.max(wanted, 1), MOST_ZOOM);
    const corner = [columns, rows].map((size, axis) => from.corner[axis]
      + size * (place[axis] / from.zoom - to[axis] / zoom));
    change({ zoom, corner });
  }
  const zoomBy = (factor, place = [0.5, 0.5]) => zoomTo(state.zoom * factor, state, place);
  const showAll = () => change({ zoom: 1, corner: [0, 0] });

  const flip = () => change({ shown: [state.shown[1], state.shown[0]] });
  const preset = (place) => {
    const [, [center, width]] = data.presets[place];
    change({ center, width });
  };

  selects.forEach((select, place) => {
    select.addEventListener("change", () => {
      const shown = [...state.shown];
      shown[place] = Number(select.value);
      change({ shown });
    });
  });
  part("flip").addEventListener("click", flip);
  part("in").addEventListener("click", () => zoomBy(2));
  part("out").addEventListener("click", () => zoomBy(1 / 2));
  part("whole").addEventListener("click", showAll);
  for (const button of viewer.querySelectorAll("[data-view-button]")) {
    button.addEventListener("click", () => change({ view: button.dataset.viewButton }));
  }
  for (const button of viewer.querySelectorAll("[data-preset]")) {
    button.addEventListener("click", () => preset(Number(button.dataset.preset)));
  }
  for (const name of ["center", "width", "limit"]) {
    part(name).addEventListener("change", () => change({ [name]: part(name).valueAsNumber }));
  }
  part("slice").addEventListener("input", () => change({ slice: part("slice").valueAsNumber }));

  const views = { o: "one", t: "two", s: "split", d: "difference" };
  const isInSight = () => {
    const { top, bottom } = stage.getBoundingClientRect();
    return bottom > 0 && top < window.innerHeight;
  };
  document.addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey || !isInSight()
        || target.matches("input[type=number], select, [role=tab]")) {
      return;
    }
    const isSideways = key === "ArrowLeft" || key === "ArrowRight";
    const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1,
      PageDown: -10, PageUp: 10, Home: -Infinity, End: Infinity };
    if (target === part("divider") && isSideways) {
      change({ split: state.split + 5 * steps[key] });
    } else if (key in steps && (target === stage || (isSideways && !target.matches("input, .scroll")))) {
      change({ slice: state.slice + steps[key] });
    } else if (key === "+" || key === "=") {
      zoomBy(2);
    } else if (key === "-") {
      zoomBy(1 / 2);
    } else if (key.toLowerCase() === "r") {
      showAll();
    } else if (key.toLowerCase() in views) {
      change({ view: views[key.toLowerCase()] });
    } else if (key.toLowerCase() === "f") {
      flip();
    } else if (Number(key) >= 1 && Number(key) <= data.presets.length) {
      preset(Number(key) - 1);
    } else {
      return;
    }
    event.preventDefault();
  });

  stage.addEventListener("wheel", (event) => {
    // Some browsers turn the wheel sideways while Shift is held.
    const turned = event.deltaY || event.deltaX;
    if (event.shiftKey && turned) {
      event.preventDefault();
      zoomBy(turned < 0 ? 1.25 : 0.8, placeOf(event));
      return;
    }
    const slice = state.slice + Math.sign(event.deltaY);
    // At either end the page scrolls on, so that nobody is caught in the picture.
    if (event.ctrlKey || !event.deltaY || !data.slices[slice]) return;
    event.preventDefault();
    change({ slice });
  }, { passive: false });

  // The pointer: on the divider it moves that; elsewhere right is wider, down is higher.

  let drag = null;
  let pinch = null;
  const fingers = new Map(); // id of a pointer -> its last event

  // The place under a pointer, in shares of the picture.
  function placeOf(event) {
    const box = boxUnder(event);
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  // Distance and middle of two fingers, the middle in shares of the picture.
  function spread() {
    const [one, other] = [...fingers.values()];
    const middle = { clientX: (one.clientX + other.clientX) / 2,
      clientY: (one.clientY + other.clientY) / 2 };
    return { place: placeOf(middle),
      distance: Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY) };
  }

  function movePinch() {
    const { place, distance } = spread();
    zoomTo(pinch.zoom * (distance / pinch.distance), pinch, pinch.place, place);
  }

  function boxUnder(event) {
    const boxes = canvases.map((canvas) => canvas.getBoundingClientRect());
    return state.view === "two" && event.clientX >= boxes[1].left ? boxes[1] : boxes[0];
  }

  stage.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    fingers.set(event.pointerId, event);
    stage.setPointerCapture(event.pointerId);
    if (fingers.size === 2) {
      drag = null;
      pinch = { ...spread(), zoom: state.zoom, corner: state.corner };
    }
    if (!event.isPrimary) return;
    drag = { x: event.clientX, y: event.clientY, divider: event.target === part("divider"),
      moves: event.shiftKey, corner: state.corner,
      center: state.center, width: state.width, limit: state.limit };
  });
  stage.addEventListener("pointermove", (event) => {
    if (fingers.has(event.pointerId)) fingers.set(event.pointerId, event);
    if (pinch) {
      movePinch();
      return;
    }
    if (!event.isPrimary) return;
    const [across, down] = placeOf(event);
    const at = ([x, y]) => [Math.floor(state.corner[0] + x * (columns / state.zoom)),
      Math.floor(state.corner[1] + y * (rows / state.zoom))];
    state.pixel = across >= 0 && across < 1 && down >= 0 && down < 1 ? at([across, down]) : null;
    if (!drag) {
      readOut();
      return;
    }
    const wider = 2 ** ((event.clientX - drag.x) / PIXELS_A_DOUBLING);
    const higher = (event.clientY - drag.y) / PIXELS_A_DOUBLING;
    if (drag.divider) change({ split: 100 * across });
    else if (drag.moves) {
      const box = boxUnder(event);
      change({ corner: [
        drag.corner[0] - ((event.clientX - drag.x) / box.width) * (columns / state.zoom),
        drag.corner[1] - ((event.clientY - drag.y) / box.height) * (rows / state.zoom)] });
    }
    else if (state.view === "difference") change({ limit: drag.limit * wider });
    else {
      change({ width: drag.width * wider,
        center: Math.round(drag.center + higher * drag.width) });
    }
  });
  for (const end of ["pointerup", "pointercancel"]) {
    stage.addEventListener(end, (event) => {
      fingers.delete(event.pointerId);
      drag = null;
      pinch = null;
    });
  }
  stage.addEventListener("pointerleave", () => {
    state.pixel = null;
    readOut();
  });

  if ("DecompressionStream" in window) {
    change({});
  } else {
    viewer.hidden = true;
    document.getElementById("viewer-too-old").hidden = false;
  }
})();
