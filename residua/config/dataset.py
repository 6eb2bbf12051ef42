"""The data sets known by name: files, checksums, image shapes, classes, means and stds."""

from dataclasses import dataclass, replace
from typing import TypeVar

from residua.config.fold import Fold
from residua.errors import unknown_name_error

DatasetT = TypeVar("DatasetT", bound="Dataset")

DIGIT_CLASSES = tuple("0123456789")
CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
CIFAR100_CLASS_TEXT = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""
CIFAR100_CLASSES = tuple(CIFAR100_CLASS_TEXT.split())
CIFAR100_SUPERCLASS_TEXT = """
    aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices
    household_furniture insects large_carnivores large_man-made_outdoor_things
    large_natural_outdoor_scenes large_omnivores_and_herbivores medium_mammals
    non-insect_invertebrates people reptiles small_mammals trees vehicles_1 vehicles_2
"""
FASHION_MNIST_REPOSITORY = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist"
FASHION_MNIST_CLASSES = (
    "t-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file of a data set, with its published MD5 sum."""

    name: str
    md5: str


@dataclass(frozen=True, slots=True)
class DownloadArchive:
    """A file to download from any of `urls`, which all serve the same bytes."""

    urls: tuple[str, ...]
    md5: str

    @property
    def name(self) -> str:
        return self.urls[0].rsplit("/", 1)[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Images of one shape in named classes, with a training split and a test split.

    input             (channels, height, width)
    mean, std         mean and standard deviation of each channel over the training images, for
                      pixels in [0, 1]
    num_images        number of images in the training split
    num_dev_images    number of these images that are held out as the dev split
    kind              file format: sklearn, batches (Python pickles), idx, or folder (photographs)
    train, test       files of each split; for IDX, the image file and then the label file
    flip_keeps_class  whether a mirrored image keeps its class
    resize            for photographs: side of the stored square images, from which random crops of
                      the input's size are taken; 0 if images are stored at the input's size
    fold              the fold of the training and dev images that takes the place of the dev split
    model_classes     the classes of a model that training goes on from, which are the first ones
    label_key         for batches: the key of the labels; "" stands for labels or fine_labels
    """

    name: str
    input: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_images: int
    num_dev_images: int
    kind: str
    folder: str = ""
    train: tuple[DataFile, ...] = ()
    test: tuple[DataFile, ...] = ()
    archives: tuple[DownloadArchive, ...] = ()
    flip_keeps_class: bool = True
    resize: int = 0
    fold: Fold | None = None
    model_classes: tuple[str, ...] = ()
    label_key: str = ""

    @property
    def stored_shape(self) -> tuple[int, int, int]:
        """The shape (channels, height, width) of the training images stored in memory."""
        return (self.input[0], self.resize, self.resize) if self.resize else self.input

    @property
    def is_streamed(self) -> bool:
        """Whether images are decoded when they are needed, and not kept in memory."""
        return False

    def hold_out_fold(self: DatasetT, fold: Fold) -> DatasetT:
        """Return the data set with this fold as its dev split, and all others to train on."""
        return replace(self, fold=fold, num_dev_images=max(round(self.num_images / fold.count), 1))


def make_idx_dataset(
    name: str,
    classes: tuple[str, ...],
    mean: float,
    std: float,
    base_urls: tuple[str, ...],
    raw_md5s: tuple[str, ...],
    gz_md5s: tuple[str, ...],
) -> Dataset:
    """Make a data set that consists of four IDX files, in the format of MNIST.

    `raw_md5s` are the MD5 sums of the unpacked files, and `gz_md5s` those of the gzipped files.
    Both are in the order training images, training labels, test images, test labels.
    """
    filenames = [
        f"{part}-{what}-ubyte"
        for part in ("train", "t10k")
        for what in ("images-idx3", "labels-idx1")
    ]
    data_files = [DataFile(file, md5) for file, md5 in zip(filenames, raw_md5s, strict=True)]
    archives = [
        DownloadArchive(tuple(f"{site}{file}.gz" for site in base_urls), md5)
        for file, md5 in zip(filenames, gz_md5s, strict=True)
    ]
    return Dataset(
        name=name,
        input=(1, 28, 28),
        classes=classes,
        mean=(mean,),
        std=(std,),
        num_images=60_000,
        num_dev_images=5000,
        kind="idx",
        folder=name,
        train=tuple(data_files[:2]),
        test=tuple(data_files[2:]),
        archives=tuple(archives),
        flip_keeps_class=classes is FASHION_MNIST_CLASSES,
    )


CIFAR100 = Dataset(
    name="cifar100",
    input=(3, 32, 32),
    classes=CIFAR100_CLASSES,
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    num_images=50_000,
    num_dev_images=5000,
    kind="batches",
    folder="cifar-100-python",
    train=(DataFile("train", "16019d7e3df5f24257cddd939b257f8d"),),
    test=(DataFile("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),),
    archives=(
        DownloadArchive(
            ("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
            "eb9058c3a382ffc7106e4002c42a8d85",
        ),
    ),
)

DATASETS = {
    d.name: d
    for d in (
        # 8x8 handwritten digits of Alpaydin & Kaynak (1998), as shipped with scikit-learn. The
        # split is ours.
        Dataset(
            name="digits",
            input=(1, 8, 8),
            classes=DIGIT_CLASSES,
            mean=(0.3061,),
            std=(0.3764,),
            num_images=1438,
            num_dev_images=150,
            kind="sklearn",
            flip_keeps_class=False,
        ),
        # Krizhevsky 2009; split 45,000 / 5,000 as by He et al. 2015, section 4.2.
        Dataset(
            name="cifar10",
            input=(3, 32, 32),
            classes=CIFAR10_CLASSES,
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2470, 0.2435, 0.2616),
            num_images=50_000,
            num_dev_images=5000,
            kind="batches",
            folder="cifar-10-batches-py",
            train=(
                DataFile("data_batch_1", "c99cafc152244af753f735de768cd75f"),
                DataFile("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
                DataFile("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
                DataFile("data_batch_4", "634d18415352ddfa80567beed471001a"),
                DataFile("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
            ),
            test=(DataFile("test_batch", "40351d587109b95175f43aff81a1287e"),),
            archives=(
                DownloadArchive(
                    ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
                    "c58f30108f718f92721af3b95e74349a",
                ),
            ),
        ),
        CIFAR100,
        # The 20 superclasses of the same images.
        replace(
            CIFAR100,
            name="cifar100-coarse",
            classes=tuple(CIFAR100_SUPERCLASS_TEXT.split()),
            label_key="coarse_labels",
        ),
        # LeCun et al. 1998; the publisher's own address no longer serves the files, so the mirrors
        # come first.
        make_idx_dataset(
            "mnist",
            DIGIT_CLASSES,
            0.1307,
            0.3081,
            (
                "https://ossci-datasets.s3.amazonaws.com/mnist/",
                "https://storage.googleapis.com/cvdf-datasets/mnist/",
                "http://yann.lecun.com/exdb/mnist/",
            ),
            (
                "6bbc9ace898e44ae57da46a324031adb",
                "a25bea736e30d166cdddb491f175f624",
                "2646ac647ad5339dbf082846283269ea",
                "27ae3e4e09519cfbb04c329615203637",
            ),
            (
                "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "d53e105ee54ea40749a09fcbcd1e9432",
                "9fb629c4189551a2d022fa330f9573f3",
                "ec29112dd5afa0611ce80d1b7f02629c",
            ),
        ),
        # Xiao et al. 2017. They publish the MD5 sums of the gzipped files only; the sums of the
        # unpacked files were published by others.
        make_idx_dataset(
            "fashion-mnist",
            FASHION_MNIST_CLASSES,
            0.2860,
            0.3530,
            (
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
                f"{FASHION_MNIST_REPOSITORY}/master/data/fashion/",
            ),
            (
                "f4a8712d7a061bf5bd6d2ca38dc4d50a",
                "9018921c3c673c538a1fc5bad174d6f9",
                "8181f5470baa50b63fa0f6fddb340f0a",
                "15d484375f8d13e6eb1aabb0c3f46965",
            ),
            (
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "25c81989df183df01b3e8a0aad5dffbe",
                "bef4ecab320f06d8554ea6380940ec79",
                "bb300cfdad3c16e7a12a480ee83cd310",
            ),
        ),
    )
}
"""The data sets known by name."""


def get_dataset(name: str) -> Dataset:
    """Return the data set called `name`.

    Raises UsageError if there is none; the message suggests the nearest name.
    """
    if name not in DATASETS:
        raise unknown_name_error("data set", name, DATASETS)
    return DATASETS[name]
