"""A trained network as a Python object that predicts, evaluates, explains and exports."""

import html
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor, nn

from residua.api.class_prediction import ClassPrediction
from residua.api.given_images import GivenImage, decode_given_image, list_given_images
from residua.api.own_errors import name_keywords_in_errors
from residua.config.evaluation_results import EvaluationResult
from residua.config.image_views import (
    ImageViews,
    choose_views,
    describe_views,
    name_views_option,
)
from residua.config.model import ModelConfig
from residua.config.serialize import Json
from residua.console.output import print_notes
from residua.data.augment import normalise_pixels
from residua.data.image_views import (
    average_over_views,
    keep_margin_for_views,
    require_views_for_model,
)
from residua.data.summary import DataSummary, ignore_summary
from residua.data.user_data import UserData, resolve_evaluation_data
from residua.deploy.engine import EngineName, InferenceEngine, build_engine
from residua.deploy.explain import GradCamExplainer, draw_heat_overlay
from residua.deploy.explained_class import find_class_index
from residua.deploy.export import export_model
from residua.deploy.export_files import ExportFormat
from residua.deploy.predict import Prediction, predict_images
from residua.errors import DataError, UsageError, unknown_name_error
from residua.net.build import ResidualNetwork
from residua.net.model_folder import find_model_folder, load_model_folder
from residua.net.own_module import load_own_module
from residua.report.format import format_percent
from residua.training.assess import evaluate_classifier
from residua.training.machine import set_up_machine


@dataclass(slots=True, eq=False, repr=False)
class Classifier:
    """A trained network with its classes.

    net      the PyTorch module, in evaluation mode
    config   classes, normalisation and origin
    folder   the model folder; None if the network was never stored
    engines  the inference engines that have been built so far, by name
    """

    net: nn.Module
    config: ModelConfig
    folder: Path | None = None
    engines: dict[str, InferenceEngine] = field(default_factory=dict, init=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the scores."""
        return self.config.classes

    def __repr__(self) -> str:
        return f"Classifier({self.config.network.name}, {len(self.classes)} classes)"

    def _repr_html_(self) -> str:
        """Render a table for notebooks."""
        config = self.config
        facts = {
            "network": config.network.name,
            "classes": ", ".join(self.classes[:10]) + ", ..." * (len(self.classes) > 10),
            "input": " x ".join(map(str, config.input)),
            "parameters": f"{sum(p.numel() for p in self.net.parameters()):,}",
            "trained on": config.dataset,
            "test error": describe_test_error(config),
        }
        rows = "".join(
            f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>"
            for name, value in facts.items()
            if value
        )
        return f"<table>{rows}</table>"

    def transform(self, image: GivenImage) -> Tensor:
        """Turn one image into the input (c, h, w) of `net`: cropped, resized and normalised."""
        pixels = self.read_pixels(image)
        return normalise_pixels(pixels[None], self.config.mean, self.config.std)[0]

    def read_pixels(self, image: GivenImage) -> Tensor:
        """Turn one image into pixels (c, h, w) uint8 of the network's input size."""
        [item] = list_given_images([image], self.config.input[0])
        return self.decode_pixels(item)

    def decode_pixels(self, item: GivenImage) -> Tensor:
        """Turn one item of `list_given_images` into pixels of the network's input size."""
        prediction = decode_given_image((1, item), self.config)
        if prediction.pixels is None:
            raise DataError(f"{prediction.path} {prediction.error}")
        return prediction.pixels

    @name_keywords_in_errors
    def predict(
        self,
        images: GivenImage | Iterable[GivenImage],
        *,
        top: int = 5,
        batch_size: int = 32,
        engine: EngineName = "auto",
        unreadable: Literal["raise", "keep"] = "raise",
        views: ImageViews = "none",
    ) -> list[ClassPrediction]:
        """Classify one or several images: paths, folders, URLs, PIL images or arrays.

        The predictions are in the order of the images.  `engine` names the inference engine, as in
        `residua predict`.  The probabilities are averaged over the `views` of each image: "none",
        "mirror", "10" or "six"; views with mirror images raise UsageError if the model was trained
        on images whose class they may change.  An image that cannot be read raises DataError or,
        with unreadable="keep", yields a prediction with an `error`.
        """
        if unreadable not in ("raise", "keep"):
            raise unknown_name_error("value", unreadable, ("raise", "keep"), "unreadable")
        for name, value in (("top", top), ("batch_size", batch_size)):
            if value < 1:
                raise UsageError(f"{name}={value} is invalid: give 1 or more")
        listed = list_given_images(images, self.config.input[0])
        results = []
        chosen_views = choose_views(views, mirror=False)
        require_views_for_model(self.config, chosen_views, f"views={chosen_views}")
        preprocessing = keep_margin_for_views(self.config, chosen_views)
        decode = partial(decode_given_image, preprocessing=preprocessing)
        classify = average_over_views(
            self.get_engine(engine, len(listed)).compute_scores,
            chosen_views,
            self.config.input[1:],
            self.config.temperature,
        )
        for prediction in predict_images(enumerate(listed, 1), decode, classify, batch_size):
            if prediction.error and unreadable == "raise":
                raise DataError(f"{prediction.path} {prediction.error}")
            results.append(self.name_classes(prediction, top))
        return results

    def predict_one(self, image: GivenImage, *, top: int = 5) -> ClassPrediction:
        """Classify one image: a path, a URL, a PIL image or an array."""
        predictions = self.predict([image], top=top)
        if len(predictions) != 1:
            raise UsageError(f"{image} holds {len(predictions)} images: call predict instead")
        return predictions[0]

    def get_engine(self, name: EngineName, image_count: int) -> InferenceEngine:
        """Return the engine `name`, built on first use; `auto` depends on the number of images."""
        is_large = image_count > 100
        key = f"{name} for many" if name == "auto" and is_large else name
        if key not in self.engines:
            self.engines[key] = build_engine(self.net, self.config, name, image_count)
        return self.engines[key]

    def name_classes(self, prediction: Prediction, top: int) -> ClassPrediction:
        """Turn a prediction into one that names its `top` most probable classes."""
        named = tuple((self.classes[k], p) for k, p in prediction.top_classes(top))
        label, probability = named[0] if named else ("", 0.0)
        return ClassPrediction(str(prediction.path), label, probability, named, prediction.error)

    @name_keywords_in_errors
    def evaluate(
        self,
        data: UserData,
        *,
        split: Literal["train", "dev", "test", "all"] | None = None,
        mirror: bool = False,
        views: ImageViews | None = None,
        skip_unknown_classes: bool = False,
        data_dir: str | Path | None = None,
        quiet: bool = False,
    ) -> EvaluationResult:
        """Evaluate the network on a data set, photographs, or images with labels.

        Without a `split`, it is evaluated on the images that it was not trained on, by their
        content; a note on standard error says which unless `quiet` is set.  A dict of images by
        split is evaluated on its split test.  Labels of arrays and Python data sets are indices
        into `classes`, or names of classes.  The predictions for the `views` of each image are
        averaged: "none", "mirror", "10" or "six"; `mirror` is the same as "mirror".
        """
        folder = Path(data_dir) if data_dir else None
        chosen_views = choose_views(views, mirror=mirror)
        dataset = resolve_evaluation_data(
            data, self.config, skip_unknown=skip_unknown_classes, data_dir=folder
        )
        return evaluate_classifier(
            self.net,
            self.config,
            dataset,
            split,
            set_up_machine("fp32"),
            folder,
            views=chosen_views,
            views_option=name_views_option(chosen_views, mirror=mirror),
            on_data=ignore_summary if quiet else print_summary_notes,
        )

    @name_keywords_in_errors
    def explain(self, image: GivenImage, target: str | None = None) -> Image.Image:
        """Draw the image and, beside it, the pixels that raise the score of a class (Grad-CAM).

        `target` is the name of the class, by default the most probable one.
        """
        pixels = self.read_pixels(image)
        if target is None:
            index = int(self.get_engine("torch", 1)(pixels[None]).argmax())
        else:
            index = find_class_index(self.classes, target)
        heatmap = GradCamExplainer(self.net, self.config).compute_heatmap(pixels, index)
        return draw_heat_overlay(pixels, heatmap)

    @name_keywords_in_errors
    def features(
        self, images: GivenImage | Iterable[GivenImage], *, batch_size: int = 32
    ) -> Tensor:
        """Return the features (n, num_features) of images, which are the inputs of the last layer.

        Raises UsageError for a VLAD classifier and for a module of the user's own.
        """
        net = self.net
        if not isinstance(net, ResidualNetwork):
            raise UsageError(
                f"{self.config.network.name} has no features: only networks built by residua have "
                "them"
            )
        listed = list_given_images(images, self.config.input[0])
        pieces: list[Tensor] = [torch.empty(0, net.num_features)]
        device = next(net.parameters()).device
        with torch.inference_mode():
            for start in range(0, len(listed), batch_size):
                batch = [self.decode_pixels(image) for image in listed[start : start + batch_size]]
                x = normalise_pixels(torch.stack(batch), self.config.mean, self.config.std)
                pieces.append(net.compute_features(x.to(device)).cpu())
        return torch.cat(pieces)

    @name_keywords_in_errors
    def export(
        self,
        out: str | Path,
        to: ExportFormat = "onnx",
        *,
        bake_preprocessing: bool = False,
        int8: str | Path | None = None,
        quiet: bool = False,
    ) -> dict[str, Json]:
        """Write the network to a file for other programs, checked against PyTorch.

        The arguments are the options of `residua export`; `int8` is the calibration data, and
        unless `quiet` it is said what they are used for.  Returns a description of the file.
        """
        return export_model(
            self.net,
            self.config,
            to,
            Path(out),
            bake_preprocessing=bake_preprocessing,
            calibration_source=str(int8) if int8 is not None else "",
            on_data=ignore_summary if quiet else print_summary_notes,
        )


def describe_test_error(config: ModelConfig) -> str:
    """Describe the test error of a network: `5.2 % with six views`; "" if it is unknown."""
    if config.test_error is None:
        return ""
    return format_percent(config.test_error) + describe_views(config.test_views)


def print_summary_notes(summary: DataSummary) -> None:
    """Print which images were chosen, and why."""
    print_notes(summary.notes)


@name_keywords_in_errors
def load(source: str | Path, module: nn.Module | None = None) -> Classifier:
    """Load a trained network: a run's folder, a model folder, or hf:OWNER/NAME.

    `module` is needed if the network is a module of the user's own; the weights are loaded into it.
    Raises RecordError if the folder is damaged, and UsageError if the module does not fit it.
    """
    folder = find_model_folder(source)
    if module is not None:
        return Classifier(module, load_own_module(folder, module), folder)
    return Classifier(*load_model_folder(folder), folder)
